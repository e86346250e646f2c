"""A config that came inside a checkpoint: read as data, though configs are code."""

import ast
import contextlib
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import MODELS, TASK_UTILS, Registry, registry
from torch import nn

from ..errors import ConfigError

_NAMES = dict(inf=float('inf'), nan=float('nan'))  # as Python writes them


def refuse_remote_code(cfg: Any, *, where: str) -> None:
    """Raise where a config asks Hugging Face's library to run a repository's code."""
    for key, value in cfg.items() if isinstance(cfg, dict) else enumerate(cfg):
        if key == 'trust_remote_code' and value:
            raise ConfigError(f'{where} has {key}={value}; give --config, or --trust')
        if isinstance(value, dict | list | tuple):
            refuse_remote_code(value, where=where)


def read_config_text(text: str, *, where: str) -> Config:
    """The config in a text that ``Config.pretty_text`` made, without running it.

    Args:
        text (str): Assignments of numbers, strings, lists, tuples and dicts.
        where (str): For messages, e.g. 'the config in a.pth'.

    Raises:
        ConfigError: If it is anything else, naming the line.
    """
    try:
        return Config(dict(map(_assignment, ast.parse(text).body)))
    except _CodeError as error:
        raise ConfigError(
            f'{where} holds code in line {error} and is read as data only; --config '
            'gives the config as a file, --trust runs it'
        ) from None
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ConfigError(f'{where} cannot be read: {error}') from error


class _CodeError(ValueError):
    pass


def _assignment(node: ast.stmt) -> tuple[str, Any]:
    if (
        isinstance(node, ast.Assign)
        and len(node.targets) == 1
        and isinstance(node.targets[0], ast.Name)
    ):
        return node.targets[0].id, _value(node.value)
    raise _CodeError(node.lineno)


def _value(node: ast.expr) -> Any:
    """Like ``ast.literal_eval``, with ``dict(a=1)`` and infinity."""
    if isinstance(node, ast.Call):
        names = [keyword.arg for keyword in node.keywords]
        if isinstance(node.func, ast.Name) and node.func.id == 'dict' and all(names):
            first = map(_value, node.args)  # of keys that are no names: dict({...})
            given = {str(k.arg): _value(k.value) for k in node.keywords}
            return dict(*first, **given)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    elif isinstance(node, ast.Dict) and None not in node.keys:
        keys = [_value(key) for key in node.keys if key is not None]
        return dict(zip(keys, map(_value, node.values)))
    elif isinstance(node, ast.List | ast.Tuple | ast.Set):
        kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        return kind(map(_value, node.elts))
    elif isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    with contextlib.suppress(ValueError):
        return ast.literal_eval(node)
    raise _CodeError(node.lineno)


@contextlib.contextmanager
def registered_types_only() -> Iterator[None]:
    """Let configs build what a toolbox has registered, and layers, but nothing else.

    MMEngine takes ``type='subprocess.run'`` for that function and calls it, and
    MMPretrain registers functions that fetch code from Hugging Face.
    """
    original = registry.get_object_from_string

    def get(name: str) -> type | None:
        if name.partition('.')[0] not in {*MODULE2PACKAGE, 'torch'}:
            return None
        found = original(name)
        if not isinstance(found, type):
            return None
        known = issubclass(found, nn.Module) or any(
            _holds(root, found) for root in (MODELS, TASK_UTILS)
        )
        return found if known else None

    find = Registry.get

    def get_registered(self: Registry, key: str) -> type | None:
        found = find(self, key)  # what fetches a model from a hub is a function
        if found is not None and not isinstance(found, type):
            raise ConfigError(
                f'type={key!r} is a function, which a config inside a checkpoint may '
                'not call; give --config, or --trust'
            )
        return found

    registry.get_object_from_string = get
    Registry.get = get_registered
    try:
        yield
    finally:
        registry.get_object_from_string, Registry.get = original, find


def _holds(root: Registry, kind: type) -> bool:
    return kind in root.module_dict.values() or any(
        _holds(child, kind) for child in root.children.values()
    )
