"""Bring both sides of a link to the same spatial size."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from ..options import checked
from ..pair import MAP, FeaturePair
from ..registry import MODELS
from .base import Stage


@MODELS.register_module()
class Resize(Stage):
    """Interpolate one side's maps to the size of the other's. Our choice.

    Args:
        side (str): The side that is changed, 'student' or 'teacher'.
            Defaults to 'student'.
        mode (str): 'bilinear', 'nearest' or 'area' (averages; for shrinking).
            Defaults to 'bilinear'.

    Shapes:
        ``(N, C, H, W)`` -> ``(N, C, H', W')`` with the other side's ``H', W'``.
    """

    layouts = (MAP,)

    @checked
    def __init__(
        self,
        *,
        side: Literal['student', 'teacher'] = 'student',
        mode: Literal['bilinear', 'nearest', 'area'] = 'bilinear',
    ) -> None:
        super().__init__()
        self.side, self.mode = side, mode

    def forward(self, pair: FeaturePair) -> FeaturePair:
        student, teacher = pair.student, pair.teacher
        if self.side == 'student':
            pair.student = [
                self._to(s, t) for s, t in zip(student, teacher, strict=True)
            ]
        else:
            pair.teacher = [
                self._to(t, s) for s, t in zip(student, teacher, strict=True)
            ]
        return pair

    def _to(self, feature: Tensor, like: Tensor) -> Tensor:
        if feature.shape[2:] == like.shape[2:]:
            return feature
        corners = False if self.mode == 'bilinear' else None
        return F.interpolate(
            feature, like.shape[2:], mode=self.mode, align_corners=corners
        )
