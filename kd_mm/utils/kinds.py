"""What a config's ``type`` is, however it is written.

Text configs hold strings (``'mmdet.RetinaNet'``), new-style ones (``read_base()``)
classes, and a dumped new-style one the classes' whole paths
(``'mmdet.models.RetinaNet'``).
"""

from contextlib import AbstractContextManager
from typing import Any

from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.registry import DefaultScope


def spelled(kind: Any) -> str:
    """A type as text: the string itself, or the class's whole path.

    Args:
        kind (str | type | Callable | LazyObject | LazyAttr): Value of a ``type`` key.
    """
    if isinstance(kind, str):
        return kind
    if isinstance(kind, LazyObject | LazyAttr):
        return f'{kind.module}.{kind}'
    name = getattr(kind, '__qualname__', None)
    return f'{kind.__module__}.{name}' if name else str(kind)


def type_text(cfg: Any) -> str:
    """A config's type as text, see :func:`spelled`; ``''`` without one.

    Nothing is imported for it.
    """
    kind = dict.get(cfg, 'type') if isinstance(cfg, dict) else None
    return '' if kind is None else spelled(kind)


def type_name(cfg: Any) -> str:
    """The bare name of a config's type, e.g. ``'RetinaNet'``; ``''`` without one."""
    return type_text(cfg).rpartition('.')[2]


def listed(names: Any) -> list[str]:
    """One name or several, or None, as a list."""
    return [names] if isinstance(names, str) else list(names or ())


def is_type(cfg: Any, *names: str) -> bool:
    """Whether a config's type is one of ``names``.

    Args:
        cfg (Any): Anything; only a dict has a type.
        names (str): ``'kd_mm.Distill'`` is of the package ``kd_mm`` or written without
            any package; a bare name is of any.
    """
    found, package = type_name(cfg), type_text(cfg).partition('.')[0]
    return bool(found) and any(
        name.rpartition('.')[2] == found
        and package in (found, name.rpartition('.')[0] or package)
        for name in names
    )


def mentions(cfg: Any, package: str) -> bool:
    """Whether something inside a config is built by a package."""
    if isinstance(cfg, dict):
        own = type_text(cfg).partition('.')[0] == package
        return own or any(mentions(value, package) for value in dict.values(cfg))
    return isinstance(cfg, list | tuple) and any(mentions(v, package) for v in cfg)


def default_scope(cfg: Any) -> AbstractContextManager[None]:
    """Context in which names without a package mean what they mean to MMEngine.

    Args:
        cfg (Config | dict): A whole config. Without ``default_scope`` MMEngine's runner
            takes 'mmengine'; None, as in new-style configs, leaves the current one.
    """
    return DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine'))
