"""What the modules of a network give, to say what could be tapped instead."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def outputs_of(model: nn.Module) -> Iterator[dict[str, list[tuple[int, ...]]]]:
    """Note what every module gives in the forward passes inside.

    Gives shapes by dotted path, in the order in which the modules are done.
    """
    seen: dict[str, list[tuple[int, ...]]] = {}

    def note(name: str, output: Any) -> None:
        items = output if isinstance(output, (tuple, list)) else [output]
        shapes = [tuple(i.shape) for i in items if isinstance(i, Tensor)]
        if shapes and len(shapes) == len(items):
            seen.pop(name, None)
            seen[name] = shapes

    handles = [
        module.register_forward_hook(
            lambda _, __, output, name=name: note(name, output)
        )
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def with_positions(
    seen: dict[str, list[tuple[int, ...]]], path: str, images: int, count: int = 3
) -> str:
    """Modules that give maps or tokens where ``path`` gives a vector, as text.

    The outermost ones inside of it, the last of each shape; else those in front.

    Args:
        seen (dict): From :func:`outputs_of`.
        path (str): The tapped module.
        images (int): How many images the pass had.
        count (int): How many to name at most. Defaults to 3.

    Returns:
        str: ``'"a" gives (2, 64, 8, 8), ...'``, or nothing if there are none.
    """
    names = list(seen)
    before = names[: names.index(path)] if path in names else names
    inside = [name for name in before if name.startswith(f'{path}.')]
    for candidates in (inside, before):
        fitting: dict[int, dict[tuple, str]] = {}
        for name in candidates:
            shape = seen[name][-1]
            places = shape[1:2] if len(shape) == 3 else shape[2:]
            if len(shape) in (3, 4) and shape[0] == images and max(places) > 1:
                level = fitting.setdefault(name.count('.'), {})
                level.pop(shape, None)
                level[shape] = name
        if fitting:
            found = list(fitting[min(fitting)].items())[: -count - 1 : -1]
            return ', '.join(f'{name!r} gives {shape}' for shape, name in found)
    return ''
