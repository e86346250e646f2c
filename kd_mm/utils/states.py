"""State dicts: what a checkpoint file holds, and what of it a model has."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..errors import ConfigError

DISTILLER = 'distiller.'  # what our part of a student's state dict begins with
KEYS = ('state_dict', 'model', 'net')  # MMEngine, timm and DeiT, CRD and others
COMPILED = '_orig_mod.'
WRAPPERS = re.compile(r'^(?:module\.|_orig_mod\.)+')  # DDP and torch.compile


def state_of(content: Mapping, *, where: str) -> dict[str, Any]:
    """The state dict in what a checkpoint file holds.

    Args:
        content (Mapping): A checkpoint of a run, weights under ``model`` or ``net``,
            or a bare state dict.
        where (str): The config key and the file, for the message.

    Returns:
        dict[str, Any]: By name, without the prefixes of DDP and ``torch.compile``.

    Raises:
        ConfigError: If there are no tensors in it.
    """
    state = _inside(content)
    if not _has_tensors(state):
        raise ConfigError(
            f'{where} holds no weights; it holds {some(map(str, content))}'
        )
    return _unwrapped(state)


def as_mmengine_reads(content: dict) -> dict:
    """A checkpoint with its weights where MMEngine looks for them, by their names.

    MMEngine knows ``state_dict`` and DDP's prefix; of other files it takes nothing, and
    says so in a page of warnings.

    Args:
        content (dict): What a checkpoint file holds.
    """
    state = _inside(content)
    compiled = any(COMPILED in str(name) for name in state)
    known = state is content or state is content.get('state_dict')
    if known and not compiled or not _has_tensors(state):
        return content
    named = _unwrapped(state)
    return named if state is content else dict(content, state_dict=named)


def _inside(content: Mapping) -> Mapping:
    """The state dict in a checkpoint, or the checkpoint, which then is one."""
    inner = (content[key] for key in KEYS if isinstance(content.get(key), Mapping))
    return next(inner, content)


def _has_tensors(state: Mapping) -> bool:
    return any(isinstance(value, Tensor) for value in state.values())


def _unwrapped(state: Mapping) -> dict[str, Any]:
    return {WRAPPERS.sub('', str(name)): value for name, value in state.items()}


def compare(
    own: Mapping[str, Any], theirs: Mapping[str, Any]
) -> tuple[list[str], list[str], dict[str, str]]:
    """Compare the state of a model with that in a file.

    Args:
        own (Mapping[str, Any]): The model's.
        theirs (Mapping[str, Any]): The file's.

    Returns:
        tuple[list[str], list[str], dict[str, str]]: Names that the file lacks, names
        that the model lacks, and for what has another shape a text: ``'name (24,) for
        (32,)'``.
    """
    missing = [name for name in own if name not in theirs]
    foreign = [name for name in theirs if name not in own]
    shapes = {
        name: f'{name} {tuple(theirs[name].shape)} for {tuple(value.shape)}'
        for name, value in own.items()
        if isinstance(value, Tensor)
        and isinstance(theirs.get(name), Tensor)
        and theirs[name].shape != value.shape
    }
    return missing, foreign, shapes


def some(names: Iterable[str], count: int = 3) -> str:
    """The first few of ``names``, as text."""
    names = list(names)
    return ', '.join(names[:count]) + (', ...' if len(names) > count else '')


def unlike(own: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Tensors of a model that are not what a file has under their names.

    Of another shape they are not compared; NaN equals NaN.
    """
    pairs = ((name, value, theirs.get(name)) for name, value in own.items())
    return [
        name
        for name, one, other in pairs
        if isinstance(one, Tensor)
        and isinstance(other, Tensor)
        and one.shape == other.shape
        and not _equal(one, other.to(one))
    ]


def _equal(one: Tensor, other: Tensor) -> bool:
    same = one == other
    return bool((same | ((one != one) & (other != other))).all())


def in_brackets(names: Iterable[str]) -> str:
    """Some of them behind a number, nothing where there are none."""
    text = some(names)
    return f' ({text})' if text else ''
