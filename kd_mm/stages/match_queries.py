"""DETR: which query of the student says what a query of the teacher says."""

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert

from ..errors import ConfigError
from ..options import Count, NonNegative, ProperFraction, checked
from ..pair import MAP, FeaturePair
from ..registry import MODELS
from ..utils.regions import pairwise_giou
from .base import Stage


def log_odds(logits: Tensor) -> Tensor:
    """Softmax scores as logits of sigmoids: ``(..., K + 1)`` -> ``(..., K)``.

    The last class, background, is left out; ``sigmoid`` of the result is the softmax.
    """
    whole = logits.logsumexp(-1, keepdim=True)
    first = torch.zeros_like(logits, dtype=torch.bool)
    first = first.scatter(-1, logits.argmax(-1, keepdim=True), True)
    # no other class has more than half of it all, so nothing cancels
    below = logits.masked_fill(first, -torch.inf)
    others = whole + torch.log1p(-(below - whole).exp())
    beside = below.logsumexp(-1, keepdim=True)
    return (logits - torch.where(first, beside, others))[..., :-1]


def query_costs(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    weights: Sequence[float] = (2.0, 5.0, 2.0),
) -> Tensor:
    """How far every query of the teacher is from every one of the student.

    Args:
        student (tuple[Tensor, Tensor]): Class probabilities ``(M, Qs, K)`` and boxes
            ``(M, Qs, 4)``, cx, cy, w, h in [0, 1].
        teacher (tuple[Tensor, Tensor]): The same of Qt queries.
        weights (Sequence[float]): Of the distance of classes and of boxes, and of
            1 - GIoU. Defaults to Deformable DETR's.

    Returns:
        Tensor: ``(M, Qt, Qs)``, 0 for queries that say the same.
    """
    classes = torch.cdist(teacher[0], student[0], p=1)
    boxes = torch.cdist(teacher[1], student[1], p=1)
    corners = [box_convert(side[1], 'cxcywh', 'xyxy') for side in (teacher, student)]
    overlap = pairwise_giou(corners[0], corners[1])
    return weights[0] * classes + weights[1] * boxes + weights[2] * (1 - overlap)


def assign(costs: Tensor) -> Tensor:
    """The student's query for every query of the teacher, by the Hungarian method.

    Args:
        costs (Tensor): ``(M, Qt, Qs)``, Qt <= Qs.

    Returns:
        Tensor: ``(M, Qt)``, indices. All costs go to the host at once. NaN costs much,
        so that it is the loss that tells of it.
    """
    host = costs.detach().float().nan_to_num(1e6).cpu().numpy()
    found = [torch.from_numpy(linear_sum_assignment(cost)[1]) for cost in host]
    return torch.stack(found).to(costs.device)


@MODELS.register_module()
class MatchQueries(Stage):
    """Bring together the queries of two DETRs that say the same.

    Queries are chosen by each network for itself, so the i-th of one has nothing to do
    with the i-th of the other. Here the teacher's ``top_k`` surest queries of every
    image each get one of the student's, so that classes and boxes are nearest in sum
    (Hungarian method). Source: DETRDistill, arXiv 2211.10156, section 3.2, with the
    costs of Deformable DETR's matcher between predictions; that unsure queries count
    for nothing is our choice.

    Tap the head of both, which gives the classes and the boxes of the decoder layers
    (``bbox_head`` of DETR, Conditional, DAB and Deformable DETR and DINO). If both have
    the same number of layers they are compared one by one, else all with the teacher's
    last. Denoising queries stand first and exist in training only: they are left out.

    What comes out are maps of one column for :class:`kd_mm.criteria.HeadLoss`: classes
    as logits of sigmoids, boxes as they are (``form='cxcywh'``).

    Args:
        top_k (int): Queries of the teacher in an image. Defaults to 50.
        threshold (float): Probability of the likeliest class below which a query is no
            target. Defaults to 0.1.
        softmax (bool): Whether classes are scored by softmax with the background last,
            as DETR does, and not by sigmoid. Defaults to False.
        class_cost (float): Defaults to 2.0.
        box_cost (float): Defaults to 5.0.
        iou_cost (float): Defaults to 2.0.

    Shapes:
        classes ``(layers, N, Q, K)`` and boxes ``(layers, N, Q, 4)`` -> classes
        ``(layers * N, K, top_k, 1)`` and boxes ``(layers * N, 4, top_k, 1)``.

    Raises:
        ConfigError: If the taps give something else, or other classes.
    """

    matches = 'queries'
    layouts = (MAP,)  # four axes; what they are is checked in setup
    instead = 'it matches queries: tap the head of a DETR, "bbox_head"'

    @checked
    def __init__(
        self,
        *,
        top_k: Count = 50,
        threshold: ProperFraction = 0.1,
        softmax: bool = False,
        class_cost: NonNegative = 2.0,
        box_cost: NonNegative = 5.0,
        iou_cost: NonNegative = 2.0,
    ) -> None:
        super().__init__()
        self.top_k, self.threshold, self.softmax = top_k, threshold, softmax
        self.costs = (class_cost, box_cost, iou_cost)
        self.queries: int | None = None  # of the student in prediction

    def see_prediction(self, features: Sequence[Tensor] | None) -> None:
        if features and features[0].ndim == 4:
            self.queries = features[0].shape[2]

    def setup(self, pair: FeaturePair) -> None:
        super().setup(pair)
        images = len(pair.samples)
        for side, found in (('student', pair.student), ('teacher', pair.teacher)):
            shapes = [tuple(f.shape) for f in found]
            if (
                len(found) != 2
                or any(f.ndim != 4 or f.shape[1] != images for f in found)
                or shapes[0][:3] != shapes[1][:3]
                or shapes[1][3] != 4
            ):
                raise ConfigError(
                    f'the {side} gives {shapes}; it takes classes (layers, {images}, '
                    f'queries, K) and boxes (layers, {images}, queries, 4) of the '
                    'decoder: tap the head of a DETR, "bbox_head"'
                )
        classes = [side[0].shape[3] for side in (pair.student, pair.teacher)]
        if classes[0] != classes[1]:
            raise ConfigError(
                f'the student scores {classes[0]} classes and the teacher {classes[1]}'
            )

    def forward(self, pair: FeaturePair) -> FeaturePair:
        with torch.autocast(pair.student[0].device.type, enabled=False):
            self._match(pair)
        return pair

    def _match(self, pair: FeaturePair) -> None:
        student = [side.float() for side in pair.student]
        if self.queries is not None:
            student = [side[:, :, -self.queries :] for side in student]
        layers = len(student[0])
        teacher = [
            side.float()
            if len(side) == layers
            else side[-1:].float().expand(layers, *side.shape[1:])
            for side in pair.teacher
        ]
        # layers and images are one axis from here on: (M, Q, ...)
        s_logits, s_boxes = (side.flatten(0, 1) for side in student)
        t_logits, t_boxes = (side.flatten(0, 1) for side in teacher)
        with torch.no_grad():
            sure = self._probabilities(t_logits).amax(-1)
            # the same queries in every layer: those the last one is sure of
            last = sure.unflatten(0, (layers, -1))[-1].repeat(layers, 1)
            count = min(self.top_k, s_logits.shape[1], t_logits.shape[1])
            score, chosen = last.topk(count, -1)
            t_logits, t_boxes = (_take(side, chosen) for side in (t_logits, t_boxes))
            target = (score >= self.threshold).to(s_logits.dtype)
            costs = query_costs(
                (self._probabilities(s_logits), s_boxes),
                (self._probabilities(t_logits), t_boxes),
                self.costs,
            )
            found = assign(costs * target[..., None])
        s_logits, s_boxes = (_take(side, found) for side in (s_logits, s_boxes))
        if self.softmax:
            s_logits, t_logits = log_odds(s_logits), log_odds(t_logits)
        pair.student = [_as_column(side) for side in (s_logits, s_boxes)]
        pair.teacher = [_as_column(side) for side in (t_logits, t_boxes)]
        pair.weight = [target[:, None, :, None]] * 2
        pair.logs['targets'] = target.sum(-1).mean()

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)[..., :-1] if self.softmax else logits.sigmoid()


def _take(side: Tensor, index: Tensor) -> Tensor:
    """``(M, Q, C)`` and ``(M, k)`` -> ``(M, k, C)``."""
    return side.gather(1, index[..., None].expand(-1, -1, side.shape[-1]))


def _as_column(side: Tensor) -> Tensor:
    """``(M, k, C)`` -> ``(M, C, k, 1)``."""
    return side.transpose(1, 2)[..., None]
