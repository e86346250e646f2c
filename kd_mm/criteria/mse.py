"""Mean squared error between features (FitNets)."""

from torch import Tensor

from ..registry import MODELS
from .base import Criterion


def mse_loss(
    student: Tensor, teacher: Tensor, *, weight: Tensor | None = None
) -> Tensor:
    r"""Mean over all elements of :math:`w (s - t)^2`.

    Args:
        student (Tensor): Any shape.
        teacher (Tensor): The same shape.
        weight (Tensor, optional): ``(N, 1, H, W)``, broadcast over channels.

    Example:
        >>> mse_loss(torch.zeros(2, 3), torch.full((2, 3), 2.0))
        tensor(4.)
    """
    error = (student - teacher).square()
    return (error if weight is None else error * weight).mean()


@MODELS.register_module()
class MSELoss(Criterion):
    """FitNet's hint loss, arXiv 1412.6550, equation 3, as a mean per element.

    With :class:`kd_mm.stages.ConvAdapter` in front this is FitNet.

    Args:
        weight (float): Weight of the link. Defaults to 1.0.
    """

    def loss(self, student, teacher, *, weight=None):
        return mse_loss(student, teacher, weight=weight)
