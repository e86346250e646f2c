"""Two-stage detectors: the teacher's second stage on both sides' maps."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ConfigError, within
from ..link import Link
from ..options import Count, checked
from ..pair import MAP, FeaturePair
from ..registry import MODELS
from .base import Borrowed, Stage
from .cross_kd import refuse_other_channels, teacher_modules
from .match_queries import log_odds


@MODELS.register_module()
class TeacherRoIs(Stage):
    """What the teacher's box head makes of both networks' maps, on one set of regions.

    Source: CrossKD, arXiv 2306.11369, and its authors' code for Faster R-CNN: the
    student's feature pyramid is read by the *teacher's* RoI head, and its classes and
    boxes are compared with those of the teacher's own pyramid. The regions are the
    teacher's surest proposals (ours; the authors take the student's sampled ones), so
    they are the same on both sides. The student's RPN and RoI head are not touched.

    What comes out are maps of one column for :class:`kd_mm.criteria.HeadLoss`: classes
    as logits of sigmoids without the background (their ``sigmoid`` is the head's
    softmax), and the deltas of the class that the teacher finds likeliest.

    Args:
        proposals (int): Regions of an image, at most. Defaults to 256.
        rpn (str): Dotted path in the teacher. Defaults to 'rpn_head'.
        extractor (str): The same. Defaults to 'roi_head.bbox_roi_extractor'; of
            Cascade R-CNN 'roi_head.bbox_roi_extractor.0'.
        head (str): The same. Defaults to 'roi_head.bbox_head'; of Cascade R-CNN
            'roi_head.bbox_head.0'.

    Shapes:
        all levels of the necks, of the teacher's width -> classes ``(1, K, R, 1)`` and
        deltas ``(1, 4, R, 1)`` of R regions.

    Raises:
        ConfigError: If the teacher has no such modules, is stored in half precision, or
            the maps do not fit them, or a stage before it moves channels.
    """

    layouts, same = (MAP,), 'size'
    moves_channels = True

    @checked
    def __init__(
        self,
        *,
        proposals: Count = 256,
        rpn: str = 'rpn_head',
        extractor: str = 'roi_head.bbox_roi_extractor',
        head: str = 'roi_head.bbox_head',
    ) -> None:
        super().__init__()
        self.proposals = proposals
        self.paths = dict(rpn=rpn, extractor=extractor, head=head)
        self._parts: Borrowed[dict[str, nn.Module]] = Borrowed({})

    def connect(self, teacher: nn.Module) -> None:
        found = {}
        for key, path in self.paths.items():
            with within(f'{key}: '):
                found[key] = teacher_modules(teacher, path, 0)[0]
        if not hasattr(found['rpn'], 'predict'):
            raise ConfigError(
                f'rpn: {type(found["rpn"]).__name__} makes no proposals; name the RPN'
            )
        self._parts = Borrowed(found)

    def borrowed(self) -> list[nn.Module]:
        return list(self._parts.it.values())

    def setup(self, pair: FeaturePair) -> None:
        super().setup(pair)
        if not self._parts.it:
            raise ConfigError('TeacherRoIs needs a teacher to borrow from')
        if next(self._parts.it['head'].parameters()).dtype != torch.float32:
            raise ConfigError(
                'proposals need a teacher in fp32: take teacher.dtype out'
            )
        if not any('batch_input_shape' in s.metainfo for s in pair.samples):
            raise ConfigError('the data samples are none of a detector')

    def check(self, link: Link) -> None:
        refuse_other_channels(self, link)

    def forward(self, pair: FeaturePair) -> FeaturePair:
        with torch.no_grad():
            rois = self._regions(pair.teacher, pair.samples)
            scores, deltas = self._said(pair.teacher, rois)
            best = scores[:, :-1].argmax(1)
            teacher = self._columns(scores, deltas, best)
        pair.student = self._columns(*self._said(pair.student, rois), best)
        pair.teacher = teacher
        pair.weight = [None, None]
        pair.logs['regions'] = torch.tensor(len(rois) / len(pair.samples))
        return pair

    def _regions(self, maps: Sequence[Tensor], samples: Sequence) -> Tensor:
        """``(R, 5)``: the image's number and x1, y1, x2, y2."""
        found = self._parts.it['rpn'].predict(tuple(maps), samples, rescale=False)
        boxes = [result.bboxes[: self.proposals] for result in found]
        numbered = [
            torch.cat([box.new_full((len(box), 1), image), box], 1)
            for image, box in enumerate(boxes)
        ]
        return torch.cat(numbered)

    def _said(self, maps: Sequence[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        extractor = self._parts.it['extractor']
        pooled = extractor(tuple(maps[: extractor.num_inputs]), rois)
        scores, deltas = self._parts.it['head'](pooled)
        return scores.float(), deltas.float()

    @staticmethod
    def _columns(scores: Tensor, deltas: Tensor, best: Tensor) -> list[Tensor]:
        deltas = deltas.unflatten(1, (-1, 4))
        if deltas.shape[1] > 1:  # a box for every class
            deltas = deltas.gather(1, best[:, None, None].expand(-1, 1, 4))
        with torch.autocast(scores.device.type, enabled=False):
            classes = log_odds(scores)
        return [side.t()[None, ..., None] for side in (classes, deltas[:, 0])]
