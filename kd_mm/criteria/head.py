"""All that a dense head says, in one link."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor, nn

from ..errors import ConfigError, within
from ..options import NonNegative, checked
from ..pair import FeaturePair
from ..registry import MODELS
from .anchors import AnchorCriterion, sum_of, weighted_sum
from .base import Criterion
from .qfl import QFLLoss


def confidence(logits: Tensor, anchors: int) -> Tensor:
    """The probability of the likeliest class of every anchor.

    Args:
        logits (Tensor): ``(N, A * K, H, W)``.
        anchors (int): A.

    Returns:
        Tensor: ``(N, A, H, W)``.
    """
    if logits.shape[1] % anchors:
        raise ConfigError(
            f'{logits.shape[1]} class channels are no multiple of {anchors} boxes a '
            'position; is the order of the taps classes, boxes, centres?'
        )
    return logits.unflatten(1, (anchors, -1)).amax(2).sigmoid()


@MODELS.register_module()
class HeadLoss(Criterion):
    r"""Classes, boxes and centres of a dense head, by the teacher's confidence.

    The link taps the head's branches one after the other, classes first, then boxes,
    then (where ``centres`` is given) centre-ness, objectness or predicted IoU; its
    levels are those of the first branch, then of the second ...

    With c the teacher's highest class probability of an anchor, the loss is

    .. math:: \sum_b w_b \sum_a u_a l_a / \max(1, \sum_a c_a)

    over branches b and anchors a of all images and levels; u is 1 for classes and c for
    boxes and centres. Source: CrossKD, arXiv 2306.11369, and its authors' code, which
    divide boxes of GFL in this way, everything else by the number of anchors that the
    student assigns to objects. A weight map of a stage multiplies u and c.

    Args:
        boxes (dict | list[dict]): Config of an :class:`AnchorCriterion`, e.g.
            ``dict(type='kd_mm.BoxLoss', form='deltas')``; its weight is the branch's.
            Of several the sum counts.
        classes (dict, optional): The same for the class scores. Defaults to None: they
            only weight.
        centres (dict, optional): The same for a third branch, which has one number an
            anchor. Defaults to None: there is none.
        weight (float): Weight of the link. Defaults to 1.0.

    Raises:
        ConfigError: If the levels do not divide into the branches.

    Shapes:
        classes ``(N, A * K, H, W)``, boxes ``(N, A * 4, H, W)`` or
        ``(N, A * 4 * bins, H, W)``, centres ``(N, A, H, W)``.
    """

    sees_channel_order, compares_classes = False, True
    layouts, instead = AnchorCriterion.layouts, AnchorCriterion.instead

    @checked
    def __init__(
        self,
        *,
        boxes: dict | Sequence[dict],
        classes: dict | None = None,
        centres: dict | None = None,
        weight: NonNegative = 1.0,
    ) -> None:
        super().__init__(weight=weight)
        boxes = [boxes] if isinstance(boxes, dict) else boxes
        if not boxes:
            raise ConfigError('HeadLoss.boxes names no criterion')
        self.boxes = nn.ModuleList(self._part('boxes', cfg) for cfg in boxes)
        self.classes = None if classes is None else self._part('classes', classes)
        self.centres = None if centres is None else self._part('centres', centres)
        if self.classes is not None and not isinstance(self.classes, QFLLoss):
            raise ConfigError('HeadLoss.classes: it takes dict(type="kd_mm.QFLLoss")')

    @staticmethod
    def _part(key: str, cfg: dict) -> Any:
        with within(f'HeadLoss.{key}: '):
            part = MMENGINE_MODELS.build(cfg)
        if not isinstance(part, AnchorCriterion):
            raise ConfigError(
                f'HeadLoss.{key}: {type(part).__name__} does not compare anchors; take '
                'kd_mm.QFLLoss, kd_mm.BoxLoss or kd_mm.LDLoss'
            )
        return part

    def _branches(self, pair: FeaturePair) -> list[FeaturePair]:
        """Classes, boxes and perhaps centres, each with its levels.

        Raises:
            ConfigError: If the levels do not divide into them.
        """
        count = 3 if self.centres is not None else 2
        levels, left = divmod(len(pair.student), count)
        parts = [pair.part(slice(i * levels, (i + 1) * levels)) for i in range(count)]
        sizes = [[tuple(t.shape[2:]) for t in part.teacher] for part in parts]
        if left or any(own != sizes[0] for own in sizes):
            names = 'classes, boxes, centres' if count == 3 else 'classes, boxes'
            raise ConfigError(
                f'HeadLoss reads {count} branches, {names}, of as many levels of the '
                f'same sizes, and the link gives {len(pair.student)} levels: tap '
                'the branches one after the other, e.g. ["bbox_head[0]", '
                '"bbox_head[1]"]'
            )
        return parts

    def total(self, pair: FeaturePair) -> Tensor:
        parts = self._branches(pair)
        boxes = [self._terms(part, parts[1]) for part in self.boxes]
        certain = [
            confidence(t.float(), terms.shape[1])
            for t, terms in zip(parts[0].teacher, boxes[0], strict=True)
        ]
        certain = _times(certain, parts[1].weight)
        divisor = sum_of(certain).clamp(min=1)
        sums = [
            part.weight * weighted_sum(terms, certain)
            for part, terms in zip(self.boxes, boxes, strict=True)
        ]
        out = {'boxes': torch.stack(sums).sum()}
        if self.classes is not None:
            terms = self._terms(self.classes, parts[0])
            out['classes'] = self.classes.weight * sum_of(_times(terms, pair.weight))
        if self.centres is not None:
            terms = self._terms(self.centres, parts[2])
            out['centres'] = self.centres.weight * weighted_sum(terms, certain)
        out = {name: value / divisor for name, value in out.items()}
        pair.logs |= {name: value.detach() for name, value in out.items()}
        return torch.stack(list(out.values())).sum()

    @staticmethod
    def _terms(part: AnchorCriterion, pair: FeaturePair) -> list[Tensor]:
        return [
            part.terms(s.float(), t.float())
            for s, t in zip(pair.student, pair.teacher, strict=True)
        ]


def _times(terms: list[Tensor], weights: list[Tensor | None]) -> list[Tensor]:
    return [
        t if w is None else t * w.float() for t, w in zip(terms, weights, strict=False)
    ]
