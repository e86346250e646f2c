"""What criteria on the predictions of dense heads have in common."""

import torch
from torch import Tensor

from ..pair import MAP, FeaturePair
from .base import Criterion


class AnchorCriterion(Criterion):
    """Compares predictions of a dense head anchor by anchor.

    The loss is one mean over all anchors of all levels and images; a level counts by
    its anchors. Where a stage gives weights, or :class:`kd_mm.criteria.HeadLoss` does,
    it is the weighted mean, its divisor at least 1.
    """

    sees_channel_order = False
    layouts = (MAP,)
    instead = 'it compares what a dense head predicts: tap maps such as "bbox_head[1]"'

    def terms(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Loss of every anchor: fp32 maps ``(N, C, H, W)`` -> ``(N, A, H, W)``."""
        raise NotImplementedError

    def total(self, pair: FeaturePair) -> Tensor:
        terms = [
            self.terms(s.float(), t.float())
            for s, t in zip(pair.student, pair.teacher, strict=True)
        ]
        ones = [torch.ones_like(t[:, :1]) for t in terms]
        weights = [
            (one if w is None else w.float()).expand_as(t)
            for one, w, t in zip(ones, pair.weight, terms, strict=True)
        ]
        return weighted_sum(terms, weights) / sum_of(weights).clamp(min=1)


def sum_of(tensors: list[Tensor]) -> Tensor:
    """The sum of all elements of all tensors."""
    return torch.stack([tensor.sum() for tensor in tensors]).sum()


def weighted_sum(terms: list[Tensor], weights: list[Tensor]) -> Tensor:
    """The sum of ``weight * term`` over all levels."""
    return sum_of([w * t for w, t in zip(weights, terms, strict=True)])
