"""Quality focal loss with the teacher's probabilities as targets."""

import torch.nn.functional as F
from torch import Tensor

from ..options import NonNegative, checked
from ..registry import MODELS
from .anchors import AnchorCriterion


def qfl_terms(student: Tensor, teacher: Tensor, *, beta: float = 1.0) -> Tensor:
    r""":math:`|p_s - p_t|^\beta \cdot BCE(p_s, p_t)` of every logit, p by sigmoid.

    Args:
        student (Tensor): Logits, any shape.
        teacher (Tensor): Logits of the same shape.
        beta (float): Exponent of the focal factor; 0 leaves binary cross-entropy.
            Defaults to 1.0.
    """
    target = teacher.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(student, target, reduction='none')
    apart = (student.sigmoid() - target).abs()
    if 0 < beta < 1:  # its slope at 0 is infinite
        apart = apart.clamp(min=1e-6)
    return apart.pow(beta) * entropy


@MODELS.register_module()
class QFLLoss(AnchorCriterion):
    """Class scores of heads that score every class by itself, where the sides differ.

    Source: CrossKD, arXiv 2306.11369, section 3.3 (quality focal loss, arXiv
    2006.04388, with the teacher's probabilities as targets); with ``beta=1`` also the
    classification loss of BCKD, arXiv 2308.14286, equation 4.

    Args:
        beta (float): Exponent of the focal factor. Defaults to 1.0, as published.
        weight (float): Weight of the link. Defaults to 1.0.

    Shapes:
        logits ``(N, A * K, H, W)`` of A anchors and K classes.
    """

    compares_classes = True

    @checked
    def __init__(self, *, beta: NonNegative = 1.0, weight: NonNegative = 1.0) -> None:
        super().__init__(weight=weight)
        self.beta = beta

    def terms(self, student, teacher):
        return qfl_terms(student, teacher, beta=self.beta)
