"""Decoupled knowledge distillation."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ..options import NonNegative, Positive, checked
from ..pair import VECTOR, FeaturePair
from ..registry import MODELS
from .base import LOGITS, OTHER_CLASSES, Criterion
from .kd import needs_classes, z_scores


def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    tau: float = 4.0,
) -> Tensor:
    r""":math:`\tau^2 (\alpha \, TCKD + \beta \, NCKD)`, mean over images.

    TCKD is the KL divergence of (target, all others), NCKD that of the others among
    themselves.

    Args:
        student (Tensor): Logits, ``(N, K)``.
        teacher (Tensor): Logits, ``(N, K)``.
        target (Tensor): ``(N,)``, the class of each image.
        alpha (float): Defaults to 1.0.
        beta (float): Defaults to 8.0.
        tau (float): Temperature. Defaults to 4.0.
    """
    own = F.one_hot(target, student.shape[1]).bool()
    log_p, log_q = (x.div(tau).log_softmax(1) for x in (student, teacher))

    def binary(log: Tensor) -> Tensor:  # (N, 2), log of target and of the rest
        rest = log.masked_fill(own, -torch.inf).logsumexp(1)
        return torch.stack([log.gather(1, target[:, None])[:, 0], rest], 1)

    two_p, two_q = binary(log_p), binary(log_q)
    tckd = (two_q.exp() * (two_q - two_p)).sum(1)
    # probabilities among the others: those of all over their sum
    among_p, among_q = log_p - two_p[:, 1:], log_q - two_q[:, 1:]
    gap = (among_q - among_p).masked_fill(own, 0)
    terms = among_q.masked_fill(own, -torch.inf).exp() * gap
    return tau * tau * (alpha * tckd + beta * terms.sum(1)).mean()


def targets(samples: Sequence[Any], device: torch.device) -> Tensor:
    """The class of every image; of mixed images the one with the largest share.

    Raises:
        ConfigError: If a sample has none.
    """
    found = []
    for sample in samples:
        if 'gt_score' in sample:
            found.append(sample.gt_score.argmax())
        elif 'gt_label' in sample:
            found.append(sample.gt_label.flatten()[0])
        else:
            raise ConfigError(
                "this needs each image's class, and the data samples have no gt_label: "
                'it is for classifiers'
            )
    return torch.stack(found).to(device)


@MODELS.register_module()
class DKDLoss(Criterion):
    """DKD, arXiv 2203.08679, equation 7. For classifiers: it needs each image's class.

    Args:
        alpha (float): Weight of the target class. Defaults to 1.0.
        beta (float): Weight of the other classes. Defaults to 8.0; the paper's are
            between 0.5 (ImageNet) and 8 (CIFAR-100), by pair.
        tau (float): Temperature. Defaults to 4.0.
        standardise (bool): Whether both sides' logits become z-scores first, see
            :func:`kd_mm.criteria.kd.z_scores`. Defaults to False.
        weight (float): Weight of the link. Defaults to 1.0.
    """

    reads_labels = True

    weighted = False
    sees_channel_order = False  # channels are classes: there is nothing to align
    layouts = (VECTOR,)
    instead = LOGITS
    compares_classes = True

    @checked
    def __init__(
        self,
        *,
        alpha: NonNegative = 1.0,
        beta: NonNegative = 8.0,
        tau: Positive = 4.0,
        standardise: bool = False,
        weight: NonNegative = 1.0,
    ) -> None:
        super().__init__(weight=weight)
        self.alpha, self.beta, self.tau = alpha, beta, tau
        self.standardise = standardise

    def setup(self, pair: FeaturePair) -> None:
        super().setup(pair)
        needs_classes('DKDLoss', pair)

    def total(self, pair: FeaturePair) -> Tensor:
        student, teacher = pair.student[0], pair.teacher[0]
        if len(pair.student) > 1 or student.shape != teacher.shape:
            raise ConfigError(
                f'DKDLoss compares one pair of logits (N, K): {pair.shapes()}; '
                + OTHER_CLASSES
            )
        if pair.weight[0] is not None:
            raise ConfigError(
                'DKDLoss has no positions that a weight map could apply to'
            )
        student, teacher = student.float(), teacher.float()
        if self.standardise:
            student, teacher = z_scores(student), z_scores(teacher)
        return dkd_loss(
            student,
            teacher,
            targets(pair.samples, student.device),
            alpha=self.alpha,
            beta=self.beta,
            tau=self.tau,
        )
