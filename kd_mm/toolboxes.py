"""MMDetection and MMPretrain: one of them is enough for all that needs only one."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from mmengine.registry import DefaultScope

from .errors import ConfigError
from .utils.kinds import type_text

TOOLBOXES = {'mmdet': 'MMDetection', 'mmpretrain': 'MMPretrain'}


def need(package: str, what: str) -> None:
    """Say that something needs a toolbox that is not there.

    Args:
        package (str): 'mmdet' or 'mmpretrain'; anything else passes.
        what (str): What needs it: a config key and its value, or a name.

    Raises:
        ConfigError: If the package is not installed.
    """
    if package in TOOLBOXES and find_spec(package) is None:
        raise ConfigError(
            f'{what} needs {TOOLBOXES[package]}, but {package} is not installed'
        )


def stand_in(package: str) -> type:
    """A base class in place of one of a toolbox that is not there.

    Args:
        package (str): 'mmdet' or 'mmpretrain'.

    Returns:
        type: Its subclasses raise a ``ConfigError`` when they are built.
    """

    def __init__(self: object, **kwargs: object) -> None:
        need(package, type(self).__name__)

    return type('StandIn', (), dict(__init__=__init__))


def check_installed(cfg: Mapping, where: str) -> None:
    """Whether every toolbox that a config names is installed.

    Args:
        cfg (Mapping): A config with a ``type``, or a whole one with a
            ``default_scope``. Types without a scope are looked up in that of the
            config or, failing that, in MMEngine's current one.
        where (str): The config key, for the message; '' for a whole config.

    Raises:
        ConfigError: Naming the first key whose type cannot be found.
    """
    current = DefaultScope.get_current_instance()
    if scope := cfg.get('default_scope'):
        need(scope, f'{where and f"{where}."}default_scope={scope!r}')
    elif current and isinstance(kind := cfg.get('type'), str) and '.' not in kind:
        need(current.scope_name, f'{where}.type={kind!r} in its scope')
    for key, kind in _types(cfg, where):
        need(kind.partition('.')[0], f'{key}={kind!r}')


def _types(cfg: Any, where: str) -> Iterator[tuple[str, str]]:
    """All types with a scope, with the path of their key."""
    if isinstance(cfg, dict):
        for key, value in dict.items(cfg):  # not importing what it names
            path = f'{where}.{key}' if where else str(key)
            if key == 'type' and '.' in (kind := type_text(cfg)):
                yield path, kind
            else:
                yield from _types(value, path)
    elif isinstance(cfg, list | tuple):
        for index, value in enumerate(cfg):
            yield from _types(value, f'{where}[{index}]')
