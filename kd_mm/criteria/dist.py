"""Correlation of predictions instead of their values (DIST)."""

from torch import Tensor

from ..options import NonNegative, Positive, checked
from ..pair import VECTOR, FeaturePair
from ..registry import MODELS
from .base import LOGITS, Criterion
from .kd import needs_classes


def pearson_distance(x: Tensor, y: Tensor, eps: float = 1e-8) -> Tensor:
    """One minus the mean Pearson correlation of the rows.

    Args:
        x (Tensor): ``(R, K)``.
        y (Tensor): ``(R, K)``.
        eps (float): Added to the product of lengths. Defaults to 1e-8.
    """
    x, y = (v - v.mean(1, keepdim=True) for v in (x, y))
    lengths = (x.square().sum(1) * y.square().sum(1) + eps * eps).sqrt()
    return 1 - ((x * y).sum(1) / lengths).mean()


def dist_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    tau: float = 1.0,
    inter: float = 2.0,
    intra: float = 2.0,
) -> Tensor:
    r""":math:`\tau^2 (\beta d(rows) + \gamma d(columns))` of the probabilities.

    Rows are the classes of one image (inter-class relation), columns the images of one
    class (intra-class relation), d is :func:`pearson_distance`.

    Args:
        student (Tensor): Logits, ``(N, K)``.
        teacher (Tensor): Logits, ``(N, K)``.
        tau (float): Temperature. Defaults to 1.0.
        inter (float): beta. Defaults to 2.0.
        intra (float): gamma. Defaults to 2.0.
    """
    p, q = ((logits / tau).softmax(1) for logits in (student, teacher))
    rows, columns = pearson_distance(p, q), pearson_distance(p.T, q.T)
    return tau * tau * (inter * rows + intra * columns)


@MODELS.register_module()
class DISTLoss(Criterion):
    """DIST, arXiv 2205.10536, equations 9 to 11.

    Args:
        tau (float): Temperature. Defaults to 1.0, the paper's on ImageNet; 4.0 on
            CIFAR-100.
        inter (float): Weight of the relation between classes. Defaults to 2.0.
        intra (float): Weight of the relation between images. Defaults to 2.0.
        weight (float): Weight of the link. Defaults to 1.0.
    """

    weighted = False
    sees_channel_order = False  # channels are classes: there is nothing to align
    layouts = (VECTOR,)
    instead = LOGITS
    compares_classes = True

    @checked
    def __init__(
        self,
        *,
        tau: Positive = 1.0,
        inter: NonNegative = 2.0,
        intra: NonNegative = 2.0,
        weight: NonNegative = 1.0,
    ) -> None:
        super().__init__(weight=weight)
        self.tau, self.inter, self.intra = tau, inter, intra

    def setup(self, pair: FeaturePair) -> None:
        super().setup(pair)
        needs_classes('DISTLoss', pair)

    def too_few(self, pair: FeaturePair) -> bool:
        return len(pair.student[0]) < 2  # a relation between images

    def loss(
        self, student: Tensor, teacher: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return dist_loss(
            student, teacher, tau=self.tau, inter=self.inter, intra=self.intra
        )
