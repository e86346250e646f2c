"""Knowledge distillation on logits."""

import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ..options import NonNegative, Positive, checked
from ..pair import LAYOUTS, MAP, VECTOR, FeaturePair
from ..registry import MODELS
from .base import LOGITS, Criterion


def z_scores(logits: Tensor, eps: float = 1e-8) -> Tensor:
    """Logits of each image with mean 0 and sample standard deviation 1 over classes.

    Source: Logit Standardization, arXiv 2403.01427, algorithm 1, with K - 1 in the
    variance as in the authors' code.

    Args:
        logits (Tensor): ``(N, K)`` or ``(N, K, H, W)``, K > 1.
        eps (float): Added to the variance, so that equal logits become 0 with a finite
            gradient. Defaults to 1e-8.

    Raises:
        ConfigError: If there is one class only.
    """
    if logits.shape[1] < 2:
        raise ConfigError(
            f'standardise needs two classes at least, got logits {tuple(logits.shape)}'
        )
    centred = logits - logits.mean(1, keepdim=True)
    variance = centred.square().sum(1, keepdim=True) / (logits.shape[1] - 1)
    return centred * (variance + eps).rsqrt()


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


def needs_classes(name: str, pair: FeaturePair) -> None:
    """Refuse scores of one class: its part of all classes is always 1.

    Raises:
        ConfigError: Names the criterion and the shapes.
    """
    if any(scores.shape[1] < 2 for scores in pair.student):
        raise ConfigError(
            f'{name} compares the classes of a softmax, and there is one: '
            f'{pair.shapes()}; take dict(type="kd_mm.KDLoss", sigmoid=True)'
        )


@MODELS.register_module()
class KDLoss(Criterion):
    """Soft targets, arXiv 1503.02531, section 2.

    Args:
        tau (float): Temperature. Defaults to 4.0, as in the public CIFAR recipes.
        sigmoid (bool): Whether each logit is a binary distribution, as in dense
            detection heads with a focal loss; softmax over dim 1 otherwise.
            Defaults to False.
        standardise (bool): Whether both sides' logits become z-scores first, see
            :func:`z_scores`: the student need not match the teacher's scale. The paper
            has ``tau=2.0, weight=9.0`` on CIFAR-100. Not with ``sigmoid``.
            Defaults to False.
        weight (float): Weight of the link. Defaults to 1.0.

    Raises:
        ConfigError: For numbers out of range, or ``sigmoid`` with ``standardise``.

    Shapes:
        logits ``(N, K)``, or ``(N, K, H, W)`` of a head that scores K classes at every
        position; with ``sigmoid`` also ``(N, L, K)``, and any number of anchors.
    """

    sees_channel_order = False  # channels are classes: there is nothing to align
    instead = LOGITS
    compares_classes = True

    @checked
    def __init__(
        self,
        *,
        tau: Positive = 4.0,
        sigmoid: bool = False,
        standardise: bool = False,
        weight: NonNegative = 1.0,
    ) -> None:
        super().__init__(weight=weight)
        if sigmoid and standardise:
            raise ConfigError(
                'KDLoss: standardise compares the classes of an image, which sigmoid '
                'takes one by one; choose one of both'
            )
        self.tau, self.sigmoid, self.standardise = tau, sigmoid, standardise
        self.weighted = sigmoid
        self.layouts = LAYOUTS if sigmoid else (MAP, VECTOR)

    def setup(self, pair: FeaturePair) -> None:
        super().setup(pair)
        if not self.sigmoid:
            needs_classes('KDLoss', pair)

    def loss(self, student, teacher, *, weight=None):
        if self.sigmoid:
            return binary_kd_loss(student, teacher, tau=self.tau, weight=weight)
        if self.standardise:
            student, teacher = z_scores(student), z_scores(teacher)
        return kd_loss(student, teacher, tau=self.tau)
