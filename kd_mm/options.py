"""Options of every part: declared by annotations, checked in one place.

A keyword of a constructor says by its annotation what it may be::

    @checked
    def __init__(self, *, top_k: Count = 8, overlap: Literal['sum', 'max'] = 'sum'):

and an unknown key, a missing one, a value of another type, one outside its range, NaN
or infinity is a :class:`~kd_mm.errors.ConfigError` that names the key before anything
is built. What concerns several options at once stays in the constructor.

Pydantic's ``validate_call`` was weighed: it reads '8' as 8 or, when strict, refuses the
lists that MMEngine makes of tuples, takes several lines for a mistake, and would be a
compiled dependency in place of this file.
"""

import functools
import inspect
import math
import numbers
import os
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from torch import nn

from .errors import ConfigError, nearest

Function = TypeVar('Function', bound=Callable)


@dataclass(frozen=True)
class Rule:
    """A condition on a value, for ``Annotated``.

    Args:
        text (str): How it reads behind the type: 'an int' + '>= 1'.
        holds (Callable): Says whether a value of the type keeps it.
    """

    text: str
    holds: Callable[[Any], bool]


def at_least(low: float) -> Rule:
    """The rule of a number that has a lower bound."""
    return Rule(f'>= {low}', lambda number: number >= low)


Natural = Annotated[int, at_least(0)]
Count = Annotated[int, at_least(1)]
NonNegative = Annotated[float, at_least(0)]
Positive = Annotated[float, Rule('> 0', lambda x: x > 0)]
Fraction = Annotated[float, Rule('in [0, 1]', lambda x: 0 <= x <= 1)]
ProperFraction = Annotated[float, Rule('in [0, 1)', lambda x: 0 <= x < 1)]

_WORDS = {
    int: 'an int',
    float: 'a finite number',
    bool: 'True or False',
    str: 'a text',
    dict: 'a dict',
    os.PathLike: 'a path',
    nn.Module: 'a network',
    type(None): 'None',
}


def checked(function: Function) -> Function:
    """Check what a function or an ``__init__`` is called with, by its annotations.

    The messages name the class of the object, or the function.
    """
    names = list(inspect.signature(function).parameters)
    method = names[0] == 'self'

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        where = type(args[0]).__name__ if method else function.__name__
        # positional arguments are as good as named ones
        given = dict(zip(names, args, strict=False))
        given.pop('self', None)
        check_options(function, given | options, where)
        return function(*args, **options)

    return typing.cast(Function, call)


def check_options(
    target: Callable, options: Mapping, where: str, *, given: Sequence[str] = ()
) -> None:
    """Complain about what ``target(**options)`` would be called with.

    Args:
        target (Callable): A class or a function.
        options (Mapping): Keywords by name.
        where (str): What the messages begin with, e.g. 'links.fpn'.
        given (Sequence[str]): Keywords that the caller adds itself.

    Raises:
        ConfigError: For an unknown or missing key, or a value that its annotation
            does not allow.
    """
    if not isinstance(options, Mapping):
        raise ConfigError(f'{where}: expected a dict, got {_short(options)}')
    known = dict(inspect.signature(target).parameters)
    for key in ('self', *given):
        known.pop(key, None)
    for key in options:
        if key not in known:
            raise ConfigError(f'{where}.{key} is unknown; {nearest(str(key), known)}')
    for key, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and key not in options:
            raise ConfigError(f'{where}.{key} is missing')
    hints = _hints(target)
    for key, value in options.items():
        check_value(hints.get(key, Any), value, f'{where}.{key}')


@functools.cache
def _hints(target: Callable) -> dict[str, Any]:
    target = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    return typing.get_type_hints(inspect.unwrap(target), include_extras=True)


def check_value(hint: Any, value: Any, where: str, whole: Any = None) -> None:
    """Raise unless ``value`` is what ``hint`` says; ``whole`` is told if it is not."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        check_value(parts[0], value, where, whole or hint)
        if not all(rule.holds(value) for rule in parts[1:] if isinstance(rule, Rule)):
            _refuse(whole or hint, value, where)
    elif origin in (typing.Union, types.UnionType):
        _check_union(hint, parts, value, where, whole)
    elif origin is Literal:
        if not any(type(value) is type(p) and value == p for p in parts):
            _refuse(whole or hint, value, where)
    elif not _is(origin or hint, value):
        _refuse(whole or hint, value, where)
    elif origin is not None and issubclass(origin, Mapping):
        for key, item in value.items():
            check_value(parts[0], key, f'{where}, a key')
            check_value(parts[1], item, f'{where}.{key}')
    elif origin is not None and issubclass(origin, Sequence):
        _check_items(hint, origin, parts, value, where, whole)


def _check_union(hint: Any, parts: tuple, value: Any, where: str, whole: Any) -> None:
    if value is None and type(None) in parts:
        return
    some = [part for part in parts if part is not type(None)]
    for part in some:
        try:
            check_value(part, value, where, whole or hint)
        except ConfigError:
            if len(some) == 1 or _fits_outside(part, value):
                raise  # an item of it is wrong, say which
        else:
            return
    _refuse(whole or hint, value, where)


def _check_items(
    hint: Any, origin: type, parts: tuple, value: Any, where: str, whole: Any
) -> None:
    fixed = origin is tuple and Ellipsis not in parts
    if fixed and len(parts) != len(value):
        _refuse(whole or hint, value, where)
    for i, item in enumerate(value):
        check_value(parts[i] if fixed else parts[0], item, f'{where}[{i}]')


def _fits_outside(hint: Any, value: Any) -> bool:
    """Whether ``value`` is the container that ``hint`` asks for."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        return _fits_outside(typing.get_args(hint)[0], value)
    return origin not in (None, Literal) and _is(origin, value)


def _is(kind: Any, value: Any) -> bool:
    """``isinstance`` as a config means it."""
    if kind in (int, float):
        number = numbers.Integral if kind is int else numbers.Real
        fits = isinstance(value, number) and not isinstance(value, bool)
        return fits and math.isfinite(value)
    if isinstance(kind, type) and issubclass(kind, Sequence) and kind is not str:
        return isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return not isinstance(kind, type) or isinstance(value, kind)


def _refuse(hint: Any, value: Any, where: str) -> None:
    raise ConfigError(f'{where}: expected {describe(hint)}, got {_short(value)}')


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else reprlib.repr(value)


def describe(hint: Any) -> str:
    """What an annotation allows, in words: 'an int >= 1 or None'."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        rules = ' '.join(rule.text for rule in parts[1:] if isinstance(rule, Rule))
        return f'{describe(parts[0])} {rules}'.rstrip()
    if origin in (typing.Union, types.UnionType):
        return _either([describe(part) for part in parts])
    if origin is Literal:
        return _either([repr(part) for part in parts])
    if origin is tuple and Ellipsis not in parts:
        return f'({", ".join(describe(part) for part in parts)})'
    kind = origin or hint
    if isinstance(kind, type) and issubclass(kind, Sequence) and kind is not str:
        return f'a list ({describe(parts[0])}, each)' if parts else 'a list'
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return 'a dict'
    return _WORDS.get(kind, getattr(kind, '__name__', str(kind)))


def _either(words: Sequence[str]) -> str:
    return ' or '.join(filter(None, (', '.join(words[:-1]), words[-1])))
