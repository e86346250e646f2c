"""What flows through a link."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from .errors import ConfigError
from .schedule import Progress

# The forms a feature comes in, told apart by the number of axes. Everything that asks
# where channels or positions are asks here.
MAP, TOKENS, VECTOR = 'maps (N, C, H, W)', 'tokens (N, L, C)', 'vectors (N, C)'
LAYOUTS = (MAP, TOKENS, VECTOR)
_BY_AXES = {4: MAP, 3: TOKENS, 2: VECTOR}


class LayoutError(ConfigError):
    """A feature of a form that a stage or criterion cannot work on."""


def layout(feature: Tensor) -> str:
    """Which of :data:`LAYOUTS` a feature is.

    Raises:
        LayoutError: If it is none of them.
    """
    if feature.ndim not in _BY_AXES:
        raise LayoutError(
            f'a link compares {", ".join(LAYOUTS)}, not {tuple(feature.shape)}'
        )
    return _BY_AXES[feature.ndim]


def channel_dim(feature: Tensor) -> int:
    """Where the channels are: last in ``(N, L, C)`` tokens, second otherwise."""
    return 2 if feature.ndim == 3 else 1


def channels(feature: Tensor) -> int:
    """Number of channels."""
    return feature.shape[channel_dim(feature)]


def positions(feature: Tensor) -> tuple[int, ...]:
    """``(H, W)`` of a map, ``(L,)`` of tokens, ``()`` of a vector."""
    return tuple(feature.shape[1:2] if feature.ndim == 3 else feature.shape[2:])


def channels_first(feature: Tensor) -> Tensor:
    """``(N, C, ...)`` with the positions behind, as all formulas want it; a view."""
    return feature.transpose(1, 2) if feature.ndim == 3 else feature


def as_map(feature: Tensor) -> Tensor:
    """``(N, C, H, W)``, for layers that know nothing else; a view.

    Tokens become ``(N, C, L, 1)`` and a vector ``(N, C, 1, 1)``: their positions are
    no neighbours, so only what works position by position may use it.
    """
    feature = channels_first(feature)
    return feature.reshape(*feature.shape, *[1] * (4 - feature.ndim))


def as_before(feature: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`as_map`: the form of ``like``, other channels allowed."""
    if like.ndim == 3:
        return feature.squeeze(3).transpose(1, 2)
    return feature.flatten(1) if like.ndim == 2 else feature


def remedy(student: Tensor, teacher: Tensor, *, widths: bool = True) -> str:
    """What brings two features to one shape, for the end of a message.

    Args:
        student (Tensor): In any layout.
        teacher (Tensor): In any layout.
        widths (bool): Whether the numbers of channels matter. Defaults to True.
    """
    forms = {layout(student), layout(teacher)}
    if forms == {MAP, TOKENS}:
        return (
            'add dict(type="kd_mm.TokensToMap") to the stages: it makes maps of tokens'
        )
    if len(forms) > 1:
        side = 'student' if layout(student) == VECTOR else 'teacher'
        return f'the {side} is pooled: tap it before the pooling, or pool both'
    if widths and channels(student) != channels(teacher):
        return 'add dict(type="kd_mm.ConvAdapter") to the stages'
    if MAP in forms:
        return 'add dict(type="kd_mm.Resize") to the stages'
    return (
        'the numbers of tokens differ: add dict(type="kd_mm.TokensToMap") and, for '
        'other sizes, dict(type="kd_mm.Resize") to the stages'
    )


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
            student's network saw it. A level's stride is :func:`cell_size` of
            ``kd_mm.utils.strides``: the last cells may hang over the edge.
        padded_size (tuple[int, int], optional): The same of the teacher's, where that
            pads further or sees another size; its maps are cropped already, its tokens
            are not. Defaults to None.
        shown_size (tuple[int, int], optional): How much of ``padded_size`` shows the
            student's batch. Defaults to None, ``image_size``.
        weight (list[Tensor | None]): Per level, a non-negative weight for every
            position, ``(N, 1, H, W)``, that spatial criteria multiply with, or None.
        losses (dict[str, Tensor]): Extra losses of stages, already weighted. Logged
            as ``loss_kd_<link>_<name>`` and added to the total.
        logs (dict[str, Tensor]): Diagnostics, logged as ``kd_<link>_<name>``; no name
            contains "loss", or MMEngine would add it to the total.
        progress (Progress): Where training is. Defaults to what the current message
            hub says.

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
    padded_size: tuple[int, int] | None = None
    shown_size: tuple[int, int] | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    logs: dict[str, Tensor] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress.now)

    def __post_init__(self) -> None:
        if not self.weight:
            self.weight = [None] * len(self.student)

    def first(self, count: int) -> 'FeaturePair':
        """The same features of the first ``count`` images only."""
        sides = [[f[:count] for f in side] for side in (self.student, self.teacher)]
        return replace(self, student=sides[0], teacher=sides[1])

    def part(self, levels: slice) -> 'FeaturePair':
        """The same with some of the levels only."""
        return replace(
            self,
            student=self.student[levels],
            teacher=self.teacher[levels],
            weight=self.weight[levels],
        )

    def shapes(self) -> str:
        """Both sides' shapes level by level, for messages."""
        rows = zip(self.student, self.teacher, strict=False)
        return '; '.join(
            f'level {i}: student {tuple(s.shape)}, teacher {tuple(t.shape)}'
            for i, (s, t) in enumerate(rows)
        )


def check_layouts(
    name: str,
    takes: Sequence[str],
    pair: FeaturePair,
    *,
    same: str = '',
    levels: Sequence[int] | None = None,
    instead: str = '',
) -> None:
    """Refuse features that a stage or criterion has no meaning for.

    Args:
        name (str): Whose, for the message.
        takes (Sequence[str]): Those of :data:`LAYOUTS` it works on.
        pair (FeaturePair): What comes.
        same (str): What both sides of a level share: nothing (``''``), their
            ``'layout'``, or their ``'size'`` too. Defaults to ``''``.
        levels (Sequence[int], optional): Which levels matter. Defaults to all.
        instead (str): What to do about another layout, where that is not the same
            for everything that takes these. Defaults to ``''``.

    Raises:
        LayoutError: Names level, side, shape and what helps.
    """
    for level in range(len(pair.student)) if levels is None else levels:
        sides = dict(student=pair.student[level], teacher=pair.teacher[level])
        for side, feature in sides.items():
            if (form := layout(feature)) not in takes:
                raise LayoutError(
                    f'{name} takes {" and ".join(takes)}, but the {side} gives {form} '
                    f'on level {level}; {instead or _instead(form, takes)}'
                )
        if same and layout(pair.student[level]) != layout(pair.teacher[level]):
            raise LayoutError(
                f'{name} compares one form on both sides, and level {level} has two; '
                f'{remedy(**sides)}'
            )
        if same == 'size' and len({positions(f) for f in sides.values()}) > 1:
            raise LayoutError(
                f'{name} needs one size on both sides, and level {level} has two; '
                'put dict(type="kd_mm.Resize") before it'
            )


def _instead(form: str, takes: Sequence[str]) -> str:
    if form == TOKENS and MAP in takes:
        return 'put dict(type="kd_mm.TokensToMap") before it'
    if form == VECTOR:
        return 'a vector has no positions: tap what comes before the pooling'
    return 'tap the neck of a classifier, or what else gives one vector an image'
