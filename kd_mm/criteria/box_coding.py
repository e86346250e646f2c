"""Boxes of a dense head relative to their anchors, in the forms that heads predict."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigError

FORMS = ('deltas', 'distances', 'log_distances', 'bins', 'cxcywh')
_LONGEST = abs(math.log(16 / 1000))  # of a side to its anchor's, as MMDetection clips


def per_box(raw: Tensor, numbers: int) -> Tensor:
    """``(N, A * numbers, H, W)`` -> ``(N, A, H, W, numbers)``.

    Raises:
        ConfigError: If the channels are no multiple.
    """
    if raw.shape[1] % numbers:
        raise ConfigError(
            f'{raw.shape[1]} channels are no boxes of {numbers} numbers each'
        )
    return raw.unflatten(1, (-1, numbers)).movedim(2, -1)


def decode(
    raw: Tensor, form: str, *, stds: Sequence[float] = (1.0,) * 4, bins: int = 1
) -> Tensor:
    """Corners of boxes, ``(N, A, H, W, 4)``: x1, y1, x2, y2.

    In units of the anchor (deltas) or of what the head predicts (distances), from the
    anchor's centre. An IoU between two boxes of one anchor is the same in any units.

    Args:
        raw (Tensor): ``(N, A * 4, H, W)``, or ``(N, A * 4 * bins, H, W)``.
        form (str): One of :data:`FORMS`, see :class:`kd_mm.criteria.BoxLoss`.
        stds (Sequence[float]): Of the deltas. Defaults to ones.
        bins (int): Of the distances. Defaults to 1.
    """
    if form == 'bins':
        steps = torch.arange(bins, dtype=raw.dtype, device=raw.device)
        sides = per_box(raw, 4 * bins).unflatten(-1, (4, bins)).softmax(-1) @ steps
    else:
        sides = per_box(raw, 4)
    if form == 'cxcywh':
        half = sides[..., 2:] / 2
        return torch.cat([sides[..., :2] - half, sides[..., :2] + half], -1)
    if form == 'deltas':
        parts = zip(sides.unbind(-1), stds, strict=True)  # numbers wait for no device
        moved = torch.stack([part * std for part, std in parts], -1)
        half = moved[..., 2:].clamp(-_LONGEST, _LONGEST).exp() / 2
        return torch.cat([moved[..., :2] - half, moved[..., :2] + half], -1)
    sides = sides.exp() if form == 'log_distances' else sides.clamp(min=0)
    return torch.cat([-sides[..., :2], sides[..., 2:]], -1)
