"""Typos in a config or in ``--cfg-options``, found before anything is built."""

import difflib
import inspect

from mmengine.runner import Runner

from ..errors import ConfigError

# What MMEngine and the tools of MMDetection read beside the arguments of `Runner`.
RUNNER_KEYS = {name for name in inspect.signature(Runner.__init__).parameters} | {
    'activation_checkpointing',
    'compile',
    'custom_imports',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
} - {'self', 'cfg'}


def check_top_level(cfg):
    """Refuse a top-level key that is almost one that ``Runner`` reads.

    Such a key is legal Python and silently without effect.

    Args:
        cfg (Config): The whole config.

    Raises:
        ConfigError: Naming the key and what it probably should be.
    """
    absent = sorted(key for key in RUNNER_KEYS if key not in cfg)
    imported = getattr(cfg, '_imported_names', ())  # classes of a new-style config
    for key in cfg:
        if key in RUNNER_KEYS or key in imported:
            continue
        close = difflib.get_close_matches(key, absent, n=1, cutoff=0.9)
        if close:
            raise ConfigError(
                f'config key {key!r} has no effect; did you mean {close[0]!r}?'
            )


def check_overrides(cfg, options):
    """Refuse overrides whose path is almost, but not quite, one of the config.

    New keys are allowed where nothing similar exists: many settings are left to
    their defaults in a config and named only on the command line.

    Args:
        cfg (Config): The config before the overrides.
        options (dict): Dotted keys to values, as ``--cfg-options`` gives them.

    Raises:
        ConfigError: Naming the part of the path that is not there.
    """
    for dotted in options:
        parts = dotted.split('.')
        node = cfg
        for depth, part in enumerate(parts):
            where = '.'.join(parts[:depth]) or 'the config'
            last = depth == len(parts) - 1
            if isinstance(node, (list, tuple)):
                node = _item(node, part, dotted, where)
            elif not hasattr(node, 'keys'):
                # merge_from_dict replaces None and other leaves by a dict
                if node is not None and not last:
                    raise ConfigError(
                        f'--cfg-options {dotted}: {where} is {node!r}, it has no '
                        f'key {part!r}'
                    )
                break
            elif part in node:
                node = node[part]
            else:
                _check_new(part, node, dotted, where, depth, last)
                break


def _item(node, part, dotted, where):
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(
            f'--cfg-options {dotted}: {where} is a list of {len(node)}, '
            f'it has no item {part!r}'
        )
    return node[int(part)]


def _check_new(part, node, dotted, where, depth, last):
    known = set(node.keys())
    if depth == 0:
        if part in RUNNER_KEYS:
            return
        known |= RUNNER_KEYS
    close = difflib.get_close_matches(part, known, n=1, cutoff=0.85 if last else 0.75)
    if close:
        raise ConfigError(
            f'--cfg-options {dotted}: {where} has no key {part!r}; '
            f'did you mean {close[0]!r}?'
        )
    if depth == 0:
        raise ConfigError(
            f'--cfg-options {dotted}: {part!r} is no key of the config and MMEngine '
            f'reads no such key'
        )
