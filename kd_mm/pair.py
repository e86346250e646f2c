"""What flows through a link."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


def channel_dim(feature: Tensor) -> int:
    """Where the channels are: last in ``(N, L, C)`` tokens, second otherwise."""
    return 2 if feature.ndim == 3 else 1


def channels(feature: Tensor) -> int:
    """Number of channels."""
    return feature.shape[channel_dim(feature)]


@dataclass
class FeaturePair:
    """Student and teacher features of one link on their way to the criterion.

    Attributes:
        link (str): Name of the link, for messages.
        student (list[Tensor]): One tensor per level, ``(N, C, H, W)`` maps,
            ``(N, L, C)`` tokens or ``(N, C)`` vectors; carries the gradient.
        teacher (list[Tensor]): As many tensors, detached.
        samples (Sequence): The batch's data samples (ground truth, image sizes).
        image_size (tuple[int, int]): Height and width in pixels of the batch as the
            student's network saw it. A level's stride is ``image_size / (H, W)``.
        weight (list[Tensor | None]): Per level, a non-negative weight for every
            position, ``(N, 1, H, W)``, that spatial criteria multiply with, or None.
        losses (dict[str, Tensor]): Extra losses of stages, already weighted. Logged
            as ``loss_kd_<link>_<name>`` and added to the total.
        logs (dict[str, Tensor]): Diagnostics, logged as ``kd_<link>_<name>``.

    Examples:
        >>> import torch
        >>> import kd_mm
        >>> pair = kd_mm.FeaturePair(
        ...     link='fpn', student=[torch.zeros(2, 8, 4, 4)],
        ...     teacher=[torch.ones(2, 16, 4, 4)], samples=[], image_size=(32, 32))
        >>> pair.shapes()
        'level 0: student (2, 8, 4, 4), teacher (2, 16, 4, 4)'
    """

    link: str
    student: list[Tensor]
    teacher: list[Tensor]
    samples: Sequence[Any]
    image_size: tuple[int, int]
    weight: list[Tensor | None] = field(default_factory=list)
    losses: dict[str, Tensor] = field(default_factory=dict)
    logs: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.weight:
            self.weight = [None] * len(self.student)

    def shapes(self) -> str:
        """Both sides' shapes level by level, for messages."""
        rows = zip(self.student, self.teacher, strict=False)
        return '; '.join(
            f'level {i}: student {tuple(s.shape)}, teacher {tuple(t.shape)}'
            for i, (s, t) in enumerate(rows)
        )
