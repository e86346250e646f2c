"""Pearson correlation distillation (PKD)."""

from torch import Tensor

from ..pair import FeaturePair, channels
from ..registry import MODELS
from .base import Criterion


def standardise(feature: Tensor, eps: float = 1e-6) -> Tensor:
    """Zero mean and unit variance for every channel, over images and positions.

    Args:
        feature (Tensor): ``(N, C, ...)``.
        eps (float): Added to the variance, so that a constant channel becomes 0 with a
            gradient that is not huge: channels below a standard deviation of some 3e-3
            count less (our choice). Defaults to 1e-6.

    Returns:
        Tensor: The same shape.
    """
    dims = [0, *range(2, feature.ndim)]
    centred = feature - feature.mean(dims, keepdim=True)
    return centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt()


def pkd_loss(
    student: Tensor, teacher: Tensor, *, weight: Tensor | None = None
) -> Tensor:
    r"""Mean over elements of :math:`w (z_s - z_t)^2 / 2`, z the standardised features.

    Without a weight this is :math:`1 - r`, r the mean Pearson correlation of the
    channels.

    Args:
        student (Tensor): ``(N, C, H, W)``, ``(N, C, L)`` or ``(N, C)``.
        teacher (Tensor): The same shape.
        weight (Tensor, optional): ``(N, 1, H, W)``.
    """
    error = (standardise(student) - standardise(teacher)).square()
    return (error if weight is None else error * weight).mean() / 2


@MODELS.register_module()
class PKDLoss(Criterion):
    """PKD, arXiv 2207.02039, equation 4, as a mean per element.

    Args:
        weight (float): Weight of the link. Defaults to 1.0; 6 in the paper on FPN
            levels.
    """

    def too_few(self, pair: FeaturePair) -> bool:
        # a level of one value a channel is 0 by itself
        return all(feature.numel() < 2 * channels(feature) for feature in pair.student)

    def loss(self, student, teacher, *, weight=None):
        return pkd_loss(student, teacher, weight=weight)
