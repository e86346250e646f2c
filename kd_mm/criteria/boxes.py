"""Boxes of dense heads: by their overlap, and by the bins of their sides."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ..options import Count, NonNegative, Positive, Rule, checked
from ..registry import MODELS
from ..utils.regions import meet
from .anchors import AnchorCriterion
from .box_coding import decode, per_box

Four = Annotated[Sequence[Positive], Rule('with four of them', lambda x: len(x) == 4)]


@MODELS.register_module()
class BoxLoss(AnchorCriterion):
    """1 - GIoU between the boxes of both sides, anchor by anchor.

    Source: CrossKD, arXiv 2306.11369, section 3.3. Both boxes hang on one anchor, so
    the anchor itself need not be known.

    Args:
        form (str): What the head predicts: 'deltas' (dx, dy, dw, dh of an anchor:
            RetinaNet, ATSS, YOLOX), 'distances' (left, top, right, bottom: RTMDet,
            FCOS behind its ``relu``), 'log_distances' (FCOS's ``exp`` is still to
            come), 'bins' (the distribution of each distance: GFL) or 'cxcywh' (centre
            and size: queries of DETRs).
        stds (Sequence[float]): Of deltas, as in the head's ``bbox_coder``. Defaults to
            ones.
        bins (int): Of each distance, GFL's ``reg_max + 1``; with ``form='bins'`` only.
            Defaults to 1.
        weight (float): Weight of the link. Defaults to 1.0.

    Raises:
        ConfigError: For an option that the form does not have.

    Shapes:
        ``(N, A * 4, H, W)``, for bins ``(N, A * 4 * bins, H, W)``.
    """

    @checked
    def __init__(
        self,
        *,
        form: Literal['deltas', 'distances', 'log_distances', 'bins', 'cxcywh'],
        stds: Four = (1.0, 1.0, 1.0, 1.0),
        bins: Count = 1,
        weight: NonNegative = 1.0,
    ) -> None:
        super().__init__(weight=weight)
        if (bins > 1) != (form == 'bins'):
            raise ConfigError(f'BoxLoss.bins is {bins} with form={form!r}')
        if form != 'deltas' and set(stds) != {1.0}:
            raise ConfigError(f'BoxLoss.stds belong to deltas, not to {form}')
        self.form, self.stds, self.bins = form, tuple(stds), bins

    def terms(self, student: Tensor, teacher: Tensor) -> Tensor:
        return box_terms(student, teacher, self.form, stds=self.stds, bins=self.bins)


@MODELS.register_module()
class BoxL1Loss(AnchorCriterion):
    """Distance of the four numbers of every box, as the head predicts them.

    What DETRs learn beside the overlap (arXiv 2005.12872, equation 9), and two-stage
    heads on their deltas (CrossKD's authors, for Faster R-CNN).

    Args:
        weight (float): Weight of the link. Defaults to 1.0.

    Shapes:
        ``(N, A * 4, H, W)``; the sum of the four, mean over anchors.
    """

    def terms(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (per_box(student, 4) - per_box(teacher, 4)).abs().sum(-1)


def box_terms(
    student: Tensor,
    teacher: Tensor,
    form: str,
    *,
    stds: Sequence[float] = (1.0,) * 4,
    bins: int = 1,
) -> Tensor:
    """1 - GIoU of every anchor's two boxes, ``(N, A, H, W)``.

    Args:
        student (Tensor): As the head predicts them, see :class:`BoxLoss`.
        teacher (Tensor): The same shape.
        form (str): See :class:`BoxLoss`, as the others.
        stds (Sequence[float]): Defaults to ones.
        bins (int): Defaults to 1.
    """
    boxes = [decode(side, form, stds=stds, bins=bins) for side in (student, teacher)]
    return giou_loss(*boxes)


def giou_loss(one: Tensor, two: Tensor, eps: float = 1e-7) -> Tensor:
    """1 - GIoU (arXiv 1902.09630), ``(..., 4)`` -> ``(...)``.

    torchvision's picks boxes that meet by a mask, for which the host waits.
    """
    common, union, hull = meet(one, two)
    around = hull.prod(-1)
    return 1 - common / (union + eps) + (around - union) / (around + eps)


def ld_terms(
    student: Tensor, teacher: Tensor, *, tau: float = 10.0, bins: int | None = None
) -> Tensor:
    r""":math:`\tau^2 KL(p_t \| p_s)` over the bins, mean of the four sides.

    Args:
        student (Tensor): Logits of bins, ``(N, A * 4 * bins, H, W)``.
        teacher (Tensor): The same shape.
        tau (float): Temperature. Defaults to 10.0.
        bins (int, optional): Defaults to None: a quarter of the channels, one anchor.

    Returns:
        Tensor: ``(N, A, H, W)``.
    """
    bins = bins or max(1, student.shape[1] // 4)
    sides = (
        per_box(side, 4 * bins).unflatten(-1, (4, bins)) for side in (student, teacher)
    )
    log_s, log_t = (F.log_softmax(side / tau, -1) for side in sides)
    divergence = F.kl_div(log_s, log_t, reduction='none', log_target=True).sum(-1)
    return tau * tau * divergence.mean(-1)


@MODELS.register_module()
class LDLoss(AnchorCriterion):
    """Localisation distillation: KD over the bins of each side of a box.

    Source: LD, arXiv 2102.12252, equation 3, for heads that predict a distribution of
    every side (GFL and its relatives). The sum over bins is KD's; MMDetection's loss
    (``KnowledgeDistillationKLDivLoss``) takes their mean, so a weight of 0.25 there is
    0.25 / 17 here. :class:`kd_mm.stages.BoxRegions` gives the paper's regions.

    Args:
        tau (float): Temperature. Defaults to 10.0, as published.
        bins (int, optional): Of each side. Defaults to None: a quarter of the channels,
            which is right for one anchor a position.
        weight (float): Weight of the link. Defaults to 1.0.

    Shapes:
        logits ``(N, A * 4 * bins, H, W)``.
    """

    @checked
    def __init__(
        self,
        *,
        tau: Positive = 10.0,
        bins: Count | None = None,
        weight: NonNegative = 1.0,
    ) -> None:
        super().__init__(weight=weight)
        self.tau, self.bins = tau, bins

    def terms(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.bins is None and student.shape[1] % 4:
            raise ConfigError(
                f'LDLoss takes bins of four sides, got {student.shape[1]} channels'
            )
        if student.shape[1] <= 4:
            raise ConfigError(
                'LDLoss takes a distribution of each side, got '
                f'{student.shape[1]} channels, which are plain boxes: take BoxLoss'
            )
        return ld_terms(student, teacher, tau=self.tau, bins=self.bins)
