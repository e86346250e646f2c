"""The student's channels at the teacher's mean and scale."""

import torch
from torch import Tensor

from ..pair import FeaturePair, channels, channels_first, remedy
from ..registry import MODELS
from .base import Stage


def match_moments(student: Tensor, teacher: Tensor, eps: float = 1e-6) -> Tensor:
    r""":math:`(s - \mu_s) / (\sigma_s + \epsilon) \cdot \sigma_t + \mu_t`, by channel.

    Mean and standard deviation (with n - 1) are taken over images and positions, of
    which the two sides may have different numbers. A channel of one value becomes the
    teacher's mean.

    Args:
        student (Tensor): ``(N, C, ...)``.
        teacher (Tensor): ``(N, C, ...)``.
        eps (float): Added to the student's deviation. Defaults to 1e-6.

    Returns:
        Tensor: The student's shape.
    """

    def moments(feature: Tensor) -> tuple[Tensor, Tensor]:
        dims = [0, *range(2, feature.ndim)]
        several = feature.numel() > feature.shape[1]
        return torch.std_mean(feature, dims, correction=int(several), keepdim=True)

    std, mean = moments(student)
    std_t, mean_t = (moment.reshape(mean.shape) for moment in moments(teacher.detach()))
    return (student - mean) / (std + eps) * std_t + mean_t


@MODELS.register_module()
class MatchMoments(Stage):
    """Give every channel of the student the teacher's mean and standard deviation.

    What CrossKD does to the student's feature before the teacher's layers read it
    (arXiv 2306.11369; in the authors' code, not in the paper). Without parameters.

    Shapes:
        student ``(N, C, H, W)``, ``(N, L, C)`` or ``(N, C)``, and a teacher of as many
        channels -> the same.

    Raises:
        ConfigError: If the widths differ.
    """

    same = 'layout'

    def setup(self, pair: FeaturePair) -> None:
        super().setup(pair)
        for s, t in zip(pair.student, pair.teacher, strict=True):
            if channels(s) != channels(t):
                raise ValueError(
                    f'it takes equal widths, got {channels(s)} and {channels(t)} '
                    f'channels; {remedy(s, t)} before it'
                )

    def forward(self, pair: FeaturePair) -> FeaturePair:
        made: dict[tuple[int, int], Tensor] = {}  # branches may read one feature
        for s, t in zip(pair.student, pair.teacher, strict=True):
            key = id(s), id(t)
            if key not in made:
                made[key] = self._match(s, t)
        pair.student = [
            made[id(s), id(t)] for s, t in zip(pair.student, pair.teacher, strict=True)
        ]
        return pair

    @staticmethod
    def _match(student: Tensor, teacher: Tensor) -> Tensor:
        with torch.autocast(student.device.type, enabled=False):
            sides = (channels_first(side).float() for side in (student, teacher))
            return channels_first(match_moments(*sides))
