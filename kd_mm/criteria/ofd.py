"""Partial L2 distance (OFD)."""

from torch import Tensor

from ..registry import MODELS
from .base import Criterion


def partial_l2_loss(
    student: Tensor, teacher: Tensor, *, weight: Tensor | None = None
) -> Tensor:
    r"""Mean of :math:`(s - t)^2`, counting 0 where :math:`s \le t \le 0`.

    Where the teacher's response is negative a ReLU will remove it, so a student that is
    more negative still is right as well.

    Args:
        student (Tensor): Any shape.
        teacher (Tensor): The same shape.
        weight (Tensor, optional): ``(N, 1, H, W)``.
    """
    error = (student - teacher).square()
    error = error.masked_fill((student <= teacher) & (teacher <= 0), 0)
    return (error if weight is None else error * weight).mean()


@MODELS.register_module()
class OFDLoss(Criterion):
    """Partial L2 distance, arXiv 1904.01866, equation 4, as a mean per element.

    Behind :class:`kd_mm.stages.OFD` this is the paper's method. The authors sum over
    elements, divide by the images, weight by 1e-3 and halve the weight with every level
    away from the last; with means per element the levels, of which each has half the
    elements of the one before it, come out alike: 1e-3 times C H W of a level, 16 for
    the last map (256 x 8 x 8) of a ResNet 32x4.

    Args:
        weight (float): Weight of the link. Defaults to 1.0.
    """

    def loss(
        self, student: Tensor, teacher: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return partial_l2_loss(student, teacher, weight=weight)
