"""Typos in a config or in ``--cfg-options``, found before anything is built."""

import difflib
import inspect
import logging
import os
from collections.abc import Sequence
from typing import Annotated

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmengine.runner._flexible_runner import FlexibleRunner

from ..errors import ConfigError
from ..options import Count, Natural, Rule, check_value
from .kinds import is_type

# What MMEngine, MMDetection's tools and we read beside the arguments of the runners.
RUNNER_KEYS = {
    name
    for kind in (Runner, FlexibleRunner)
    for name in inspect.signature(kind.__init__).parameters
} | {
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
    'unlabelled_dataloader',
} - {'self', 'cfg'}


# Variables that we read ourselves, all the same.
HELPERS = {'test_pipeline'}

# What `Runner` has of its own, and what MMDetection adds under a fixed name.
HOOK_KEYS = {
    'checkpoint',
    'logger',
    'param_scheduler',
    'runtime_info',
    'sampler_seed',
    'timer',
    'visualization',
}


def check_top_level(cfg):
    """Refuse a key that is almost one that ``Runner`` reads.

    Such a key is legal Python and silently without effect, also where the right one
    comes from a base config; in ``default_hooks`` it adds a hook and replaces none.

    Args:
        cfg (Config): The whole config.

    Raises:
        ConfigError: Naming the key and what it probably should be.
    """
    hooks = cfg.get('default_hooks')
    imported = getattr(cfg, '_imported_names', ())  # classes of a new-style config
    for where, node, known in (
        ('', cfg, RUNNER_KEYS),
        ('default_hooks.', hooks if isinstance(hooks, dict) else {}, HOOK_KEYS),
    ):
        for key in node:
            if key in known or key in imported:
                continue
            absent = sorted(name for name in known if name not in node)
            close = [
                name
                for name in sorted(known)
                if _slip(key, name) and not _helper(key, name, node)
            ]
            close += difflib.get_close_matches(key, absent, n=1, cutoff=0.9)
            if close:
                raise ConfigError(
                    f'config key {where + key!r} has no effect; did you mean '
                    f'{close[0]!r}?'
                )


# MMEngine takes any number here, and trains nothing, saves nothing or divides by 0.
OrNever = Annotated[int, Rule('>= 1, or -1 for never', lambda n: n >= 1 or n == -1)]
VALUES = {
    'train_cfg.max_epochs': Count,
    'train_cfg.max_iters': Count,
    'train_cfg.val_interval': Count,
    'train_cfg.val_begin': Natural,
    'train_dataloader.batch_size': Count | None,
    'train_dataloader.num_workers': Natural,
    'default_hooks.checkpoint.interval': OrNever,
    'default_hooks.checkpoint.max_keep_ckpts': OrNever,
    'default_hooks.logger.interval': Count,
    'randomness.seed': Natural | None,
    'custom_hooks': Sequence[dict] | None,
}


def check_values(cfg):
    """Refuse numbers of the training loop that make no sense.

    Args:
        cfg (Config): The whole config, with its overrides.

    Raises:
        ConfigError: Naming the key.
    """
    for dotted, hint in VALUES.items():
        node, *rest = cfg, *dotted.split('.')
        while rest and isinstance(node, (dict, Config)) and rest[0] in node:
            node = node[rest.pop(0)]
        if not rest:
            check_value(hint, node, dotted)


def _slip(one, other):
    """Whether two names differ by one letter more, less or other, or by two swapped.

    None of the variables in the 1700 configs of MMDetection and MMPretrain is so near
    to a key.
    """
    if abs(len(one) - len(other)) > 1:
        return False
    same = len(os.path.commonprefix([one, other]))
    a, b = one[same:], other[same:]
    swapped = a[:2] == b[:2][::-1] and a[2:] == b[2:]
    return swapped or a[1:] == b or a == b[1:] or a[1:] == b[1:]


def _helper(key, name, node):
    """Whether it is a variable beside the key itself: val_evaluator2, custom_hook.

    One of several, or the one part of a list that bears its name.
    """
    if name not in node:
        return False
    part = isinstance(node[key], dict) and isinstance(node[name], list)
    return key.rstrip('0123456789') == name or (f'{key}s' == name and part)


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
                    found = '; the config in the work dir has the links it finds'
                    raise ConfigError(
                        f'--cfg-options {dotted}: {where} is {node!r}, it has no '
                        f'key {part!r}{found * (where == "model.links")}'
                    )
                break
            elif part in node:
                if not depth and part not in RUNNER_KEYS | HELPERS:
                    _tell_used_up(part, cfg)
                node = node[part]
            else:
                _check_new(part, node, dotted, where, depth, last)
                break


def _tell_used_up(name, cfg):
    """Warn of a variable: what took its value has it already."""
    value = cfg[name]
    read = [(path, v) for path, v in _nodes(cfg, ()) if path[0] in RUNNER_KEYS]
    named = ['.'.join(path) for path, _ in read if path[-1] == name]
    same = [
        '.'.join(path)
        for path, found in read
        if type(found) is type(value) and found == value
    ]
    places = list(dict.fromkeys(named + same))[:3]
    meant = f', perhaps {" or ".join(places)}' if places else ''
    print_log(
        f'kd_mm: --cfg-options {name}=...: {name} is a variable of the config, and '
        'nothing that was made of it when the file was read follows; set what is '
        f'read{meant}',
        'current',
        logging.WARNING,
    )


def _nodes(node, path):
    """All that is in nested dicts and lists, with its path."""
    if isinstance(node, (list, tuple)):
        node = {str(i): item for i, item in enumerate(node)}
    if hasattr(node, 'items'):
        for key, item in node.items():
            yield (*path, str(key)), item
            yield from _nodes(item, (*path, str(key)))


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
    if is_type(node, 'kd_mm.Distill') and part in (node.get('student') or {}):
        rest = dotted.removeprefix(f'{where}.')
        raise ConfigError(
            f'--cfg-options {dotted}: {where} is distilled, and {part!r} is of its '
            f'student: {where}.student.{rest}'
        )
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
