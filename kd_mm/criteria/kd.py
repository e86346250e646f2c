"""Knowledge distillation on logits."""

import torch.nn.functional as F
from torch import Tensor

from ..options import NonNegative, Positive, checked
from ..pair import LAYOUTS, MAP, VECTOR
from ..registry import MODELS
from .base import LOGITS, Criterion


def kd_loss(student: Tensor, teacher: Tensor, *, tau: float = 1.0) -> Tensor:
    r""":math:`\tau^2 KL(p_t \| p_s)`, softmax over dim 1, mean over all the rest.

    Args:
        student (Tensor): Logits, ``(N, K)`` or ``(N, K, H, W)``.
        teacher (Tensor): Logits of the same shape.
        tau (float): Temperature. Defaults to 1.0.
    """
    log_s = F.log_softmax(student / tau, dim=1)
    log_t = F.log_softmax(teacher / tau, dim=1)
    terms = F.kl_div(log_s, log_t, reduction='none', log_target=True).sum(1)
    return tau * tau * terms.mean()


def binary_kd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    tau: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    r""":math:`\tau^2 KL` between sigmoid probabilities, mean per logit.

    For heads that score every class by itself (focal loss): each logit is a binary
    distribution.

    Args:
        student (Tensor): Logits, any shape.
        teacher (Tensor): Logits of the same shape.
        tau (float): Temperature. Defaults to 1.0.
        weight (Tensor, optional): ``(N, 1, H, W)``.
    """
    s, t = student / tau, teacher / tau
    p = t.sigmoid()
    terms = p * (F.logsigmoid(t) - F.logsigmoid(s)) + (1 - p) * (
        F.logsigmoid(-t) - F.logsigmoid(-s)
    )
    return tau * tau * (terms if weight is None else terms * weight).mean()


@MODELS.register_module()
class KDLoss(Criterion):
    """Soft targets, arXiv 1503.02531, section 2.

    Args:
        tau (float): Temperature. Defaults to 4.0, as in the public CIFAR recipes.
        sigmoid (bool): Whether each logit is a binary distribution, as in dense
            detection heads with a focal loss; softmax over dim 1 otherwise.
            Defaults to False.
        weight (float): Weight of the link. Defaults to 1.0.

    Shapes:
        logits ``(N, K)``, or ``(N, K, H, W)`` of a head that scores K classes at every
        position; with ``sigmoid`` also ``(N, L, K)``, and any number of anchors.
    """

    sees_channel_order = False  # channels are classes: there is nothing to align
    instead = LOGITS

    @checked
    def __init__(
        self,
        *,
        tau: Positive = 4.0,
        sigmoid: bool = False,
        weight: NonNegative = 1.0,
    ) -> None:
        super().__init__(weight=weight)
        self.tau, self.sigmoid = tau, sigmoid
        self.weighted = sigmoid
        self.layouts = LAYOUTS if sigmoid else (MAP, VECTOR)

    def loss(self, student, teacher, *, weight=None):
        if self.sigmoid:
            return binary_kd_loss(student, teacher, tau=self.tau, weight=weight)
        return kd_loss(student, teacher, tau=self.tau)
