"""Hierarchical context loss (ReviewKD)."""

import torch.nn.functional as F
from torch import Tensor

from ..pair import MAP, VECTOR, as_map
from ..registry import MODELS
from .base import Criterion

SIZES = (4, 2, 1)  # cells on a side of the pooled maps


def hcl_loss(
    student: Tensor, teacher: Tensor, *, weight: Tensor | None = None
) -> Tensor:
    r"""Mean squared error of the maps and of their averages, coarser and coarser.

    :math:`\sum_l 2^{-l} MSE_l / \sum_l 2^{-l}`: l = 0 is the map itself, then come its
    averages over 4 x 4, 2 x 2 and 1 x 1 cells, those that are coarser than the map.

    Args:
        student (Tensor): ``(N, C, H, W)``.
        teacher (Tensor): The same shape.
        weight (Tensor, optional): ``(N, 1, H, W)``; averaged for the coarser maps.
    """
    total, share, factor = student.new_zeros(()), 0.0, 1.0
    # averaging is linear: the average of the difference is the difference of averages
    error = student - teacher
    for size in (None, *(size for size in SIZES if size < min(student.shape[2:]))):
        coarse = error if size is None else F.adaptive_avg_pool2d(error, size)
        term = coarse.square()
        if weight is not None:
            here = weight if size is None else F.adaptive_avg_pool2d(weight, size)
            term = term * here
        total = total + factor * term.mean()
        share, factor = share + factor, factor / 2
    return total / share


@MODELS.register_module()
class HCLLoss(Criterion):
    """Hierarchical context loss of ReviewKD, arXiv 2104.09044, section 3.3.

    Behind :class:`kd_mm.stages.ReviewKD` this is the paper's method; the constants are
    those of the authors' code. The paper lets its weight rise over the first 20 epochs
    on CIFAR: ``schedule=dict(warmup=20)`` of the link.

    Args:
        weight (float): Weight of the link. Defaults to 1.0; the authors' lie between
            0.6 and 8 on CIFAR-100, by pair.
    """

    layouts = (MAP, VECTOR)

    def loss(
        self, student: Tensor, teacher: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        # a pooled vector is a 1 x 1 map
        return hcl_loss(as_map(student), as_map(teacher), weight=weight)
