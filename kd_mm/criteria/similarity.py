"""Similarity-preserving distillation (SP)."""

import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ..pair import FeaturePair
from ..registry import MODELS
from .base import Criterion


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean over pairs of images of :math:`(G_s - G_t)^2`.

    :math:`G` is the matrix of inner products of the flattened features of a batch, its
    rows scaled to unit length.

    Args:
        student (Tensor): ``(N, ...)``.
        teacher (Tensor): ``(N, ...)``; anything but N may differ.
    """
    grams = []
    for feature in (student, teacher):
        flat = feature.flatten(1)
        grams.append(F.normalize(flat @ flat.T, dim=1))
    return F.mse_loss(*grams)


@MODELS.register_module()
class SPLoss(Criterion):
    """Similarity-preserving distillation, arXiv 1907.09682, equation 4.

    Widths and sizes may differ; the order of channels does not matter. It needs at
    least two images in a batch.

    Args:
        weight (float): Weight of the link. Defaults to 1.0; 3000 in the paper's CIFAR
            experiments.
    """

    weighted = False
    sees_channel_order = False
    same_layout = same_shape = False

    def too_few(self, pair: FeaturePair) -> bool:
        return len(pair.student[0]) < 2

    def _level(self, student, teacher, weight):
        if weight is not None:
            raise ConfigError(
                'SPLoss compares images, not positions: a weight map cannot apply'
            )
        if len(student) < 2:
            raise ConfigError('SPLoss compares the images of a batch: it needs two')
        return similarity_loss(student, teacher)
