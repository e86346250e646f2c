"""How many classes there are, by a network and by a data set."""

from collections.abc import Sequence
from typing import Any

from torch import nn


def classes_of(model: nn.Module) -> int:
    """How many classes a network tells apart; 0 where it does not say."""
    if 'RPN' in {kind.__name__ for kind in type(model).__mro__}:
        return 0  # it finds objects of any class, and sets every label to 0
    for name, child in model.named_children():
        if name in ('data_preprocessor', 'backbone', 'neck', 'distiller', 'rpn_head'):
            continue
        for module in child.modules():
            if isinstance(number := getattr(module, 'num_classes', None), int):
                return number
    return 0


def names_of(dataset: Any) -> Sequence[str] | None:
    """The classes of a data set; None where it does not say."""
    return (getattr(dataset, 'metainfo', None) or {}).get('classes')


def differing(model: nn.Module, dataset: Any) -> str:
    """What the number of a network's classes and a data set's are, if they differ.

    Panoptic data sets name things and stuff, which go to heads of their own.
    """
    names, ours = names_of(dataset), classes_of(model)
    stuff = 'stuff_classes' in (getattr(dataset, 'metainfo', None) or {})
    if not names or not ours or stuff or len(names) == ours:
        return ''
    text = f'the head tells {ours} classes apart, the training images have {len(names)}'
    if len(names) < ours:
        return text
    return f'{text}: some losses take the others for background, some end in an error'
