"""Channel-wise distillation."""

import torch.nn.functional as F
from torch import Tensor

from ..options import NonNegative, Positive, checked
from ..pair import MAP, TOKENS
from ..registry import MODELS
from .base import Criterion


def cwd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    tau: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Mean over images and channels of :math:`\tau^2 KL(\phi(t) \| \phi(s))`.

    :math:`\phi` is the softmax over the positions of one channel at temperature tau.
    With a weight a position's term is :math:`p \log(p / q) - p + q`, whose sum over all
    positions is the same, and which no position can make negative (our choice): the
    bare :math:`p \log(p / q)` of a part of the map is least where the student has
    moved all its probability there, not where it agrees with the teacher.

    Args:
        student (Tensor): ``(N, C, H, W)`` or ``(N, C, L)``.
        teacher (Tensor): The same shape.
        tau (float): Temperature. Defaults to 1.0.
        weight (Tensor, optional): ``(N, 1, H, W)``, weight of a position's term.
    """
    n, c = student.shape[:2]
    log_s = F.log_softmax(student.flatten(2) / tau, dim=2)
    log_t = F.log_softmax(teacher.flatten(2) / tau, dim=2)
    terms = F.kl_div(log_s, log_t, reduction='none', log_target=True)
    if weight is not None:
        terms = (terms - log_t.exp() + log_s.exp()) * weight.flatten(2)
    return terms.sum() * (tau * tau / (n * c))


@MODELS.register_module()
class CWDLoss(Criterion):
    """Channel-wise knowledge distillation, arXiv 2011.13256, equation 4.

    Args:
        tau (float): Temperature of the spatial softmax. Defaults to 1.0, the paper's
            for features of detectors.
        weight (float): Weight of the link. Defaults to 1.0; 10 in the paper's
            experiments on FPN levels.
    """

    layouts = (MAP, TOKENS)

    @checked
    def __init__(self, *, tau: Positive = 1.0, weight: NonNegative = 1.0) -> None:
        super().__init__(weight=weight)
        self.tau = tau

    def loss(self, student, teacher, *, weight=None):
        return cwd_loss(student, teacher, tau=self.tau, weight=weight)
