"""Streamed statistics of the channels of two networks on the same images.

Everything is one pass, in float64, and merged over ranks. Memory does not depend on
the number of images: ``8 (Cs + Ct)^2`` bytes for the second moments of one level (2 MB
at 256 + 256 channels, 134 MB at 2048 + 2048) and ``8 K (Cs + Ct)`` for the means of K
classes, plus one batch of features in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor
from torchvision.ops import roi_align

from ...errors import ConfigError
from ...pair import channels
from ...utils.strides import cell_size

Kind = Literal['gap', 'class', 'spatial']
KINDS = get_args(Kind)


@dataclass(frozen=True)
class Covariance:
    """Second moments of student and teacher channels about their means.

    Attributes:
        ss (Tensor): ``(Cs, Cs)``, student with student.
        st (Tensor): ``(Cs, Ct)``, student with teacher.
        tt (Tensor): ``(Ct, Ct)``, teacher with teacher.
        means (tuple[Tensor, Tensor] | None): ``(Cs,)`` and ``(Ct,)``, what the moments
            are about; not kept by what is made from them.
    """

    ss: Tensor
    st: Tensor
    tt: Tensor
    means: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, student: Tensor, teacher: Tensor) -> 'Covariance':
        """The batch computation on ``(n, Cs)`` and ``(n, Ct)`` rows."""
        moments = Moments(student.shape[1] + teacher.shape[1], student.device)
        moments.update(torch.cat([student, teacher], 1))
        return moments.covariance(student.shape[1])

    def scaled(self) -> 'Covariance':
        """The same with mean variance 1 on both sides, so that levels can be added."""
        s = self.ss.diagonal().mean().clamp(min=torch.finfo(self.ss.dtype).tiny)
        t = self.tt.diagonal().mean().clamp(min=torch.finfo(self.tt.dtype).tiny)
        return Covariance(self.ss / s, self.st / (s * t).sqrt(), self.tt / t)

    @staticmethod
    def pooled(levels: Sequence['Covariance']) -> 'Covariance':
        """Mean over levels of their scaled covariances; our choice for shared maps."""
        parts = [level.scaled() for level in levels]
        return Covariance(
            *(
                torch.stack([getattr(p, name) for p in parts]).mean(0)
                for name in ('ss', 'st', 'tt')
            )
        )


class Moments:
    """Mean and covariance of rows that arrive in batches.

    The mean is carried along and every batch is centred first (Chan et al., 1979), so
    a large mean does not cost digits.

    Args:
        width (int): Length of a row.
        device (torch.device, optional): Where the sums live. Defaults to the CPU.
    """

    def __init__(self, width: int, device: torch.device | None = None) -> None:
        self.count = 0.0
        self.mean = torch.zeros(width, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(width, width, dtype=torch.float64, device=device)

    def update(self, rows: Tensor) -> None:
        """Take in ``(n, width)`` rows."""
        if not len(rows):
            return
        rows = rows.to(self.mean)
        mean = rows.mean(0)
        rows = rows - mean
        self.scatter.addmm_(rows.T, rows)
        total = self.count + len(rows)
        shift = mean - self.mean
        self.scatter.addr_(shift, shift, alpha=self.count * len(rows) / total)
        self.mean += shift * (len(rows) / total)
        self.count = total

    def reduce(self) -> None:
        """Merge with the other ranks, in place."""
        if get_world_size() == 1:
            return
        count = self.mean.new_tensor([self.count])
        mean = self.mean * self.count
        all_reduce(count)
        all_reduce(mean)
        mean /= count.clamp(min=1)
        shift = self.mean - mean
        self.scatter.addr_(shift, shift, alpha=self.count)
        all_reduce(self.scatter)
        self.mean, self.count = mean, float(count)

    def covariance(self, width: int) -> Covariance:
        """Covariance, split after the first ``width`` entries of a row.

        Raises:
            ConfigError: If fewer than two rows came in.
        """
        if self.count < 2:
            raise ConfigError(
                f'channel statistics need at least 2 samples, got {self.count:.0f}'
            )
        cov = self.scatter / self.count
        return Covariance(
            cov[:width, :width],
            cov[:width, width:],
            cov[width:, width:],
            (self.mean[:width], self.mean[width:]),
        )


class ClassSums:
    """Sum of rows per class; grows with the labels it meets.

    Args:
        width (int): Length of a row.
        device (torch.device, optional): Where the sums live. Defaults to the CPU.
    """

    def __init__(self, width: int, device: torch.device | None = None) -> None:
        self.sums = torch.zeros(0, width, dtype=torch.float64, device=device)
        self.counts = torch.zeros(0, dtype=torch.float64, device=device)

    def update(self, rows: Tensor, labels: Tensor) -> None:
        """Take in ``(n, width)`` rows of the classes ``(n,)``."""
        if not len(rows):
            return
        self._grow(int(labels.max()) + 1)
        self.sums.index_add_(0, labels, rows.to(self.sums))
        self.counts += torch.bincount(labels, minlength=len(self.counts))

    def _grow(self, classes: int) -> None:
        more = max(0, classes - len(self.counts))
        self.sums = F.pad(self.sums, (0, 0, 0, more))
        self.counts = F.pad(self.counts, (0, more))

    def reduce(self) -> None:
        """Merge with the other ranks, in place."""
        if get_world_size() == 1:
            return
        classes = torch.tensor([len(self.counts)], device=self.counts.device)
        all_reduce(classes, op='max')
        self._grow(int(classes))
        all_reduce(self.sums)
        all_reduce(self.counts)

    def means(self) -> tuple[Tensor, Tensor]:
        """Means ``(K, width)`` and labels ``(K,)`` of the classes that occurred."""
        labels = self.counts.nonzero().flatten()
        return self.sums[labels] / self.counts[labels, None], labels


class LevelStatistics:
    """What the fit and the report need to know about one level of a link.

    Args:
        kinds (Sequence[str]): Which samples are correlated: 'gap' (features averaged
            over positions, one sample an image), 'spatial' (every position), 'class'
            (class means; pooled inside the ground-truth boxes of detections, every
            box on every level).
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        self.kinds = tuple(kinds)
        self.width = 0  # of the student
        self.width_teacher = 0
        self.moments: dict[str, Moments] = {}
        self.classes: ClassSums | None = None

    @torch.no_grad()
    def update(
        self,
        student: Tensor,
        teacher: Tensor,
        samples: Sequence[Any],
        image_size: tuple[int, int],
    ) -> None:
        """Take in one batch of features of the same images.

        Args:
            student (Tensor): ``(N, Cs, H, W)``, ``(N, L, Cs)`` or ``(N, Cs)``.
            teacher (Tensor): The same form with Ct channels; another H, W is averaged
                down to the smaller one for 'spatial'.
            samples (Sequence): N data samples with the ground truth, for 'class'.
            image_size (tuple[int, int]): Height and width of the batch in pixels.
        """
        if not self.width:
            self.width, self.width_teacher = channels(student), channels(teacher)
            joint = self.width + self.width_teacher
            for kind in self.kinds:
                if kind == 'class':
                    self.classes = ClassSums(joint, student.device)
                else:
                    self.moments[kind] = Moments(joint, student.device)
        if self.classes is not None:
            rows_s, labels = labelled_rows(student, samples, image_size)
            rows_t, _ = labelled_rows(teacher, samples, image_size)
            self.classes.update(torch.cat([rows_s, rows_t], 1), labels)
        for kind, moments in self.moments.items():
            if kind == 'gap':
                rows = pooled_rows(student), pooled_rows(teacher)
            else:
                rows = position_rows(student, teacher)
            moments.update(torch.cat(rows, 1))

    def reduce(self) -> None:
        """Merge with the other ranks."""
        for moments in self.moments.values():
            moments.reduce()
        if self.classes is not None:
            self.classes.reduce()

    def covariance(self, kind: str) -> Covariance:
        """Covariance over the samples of ``kind``.

        Raises:
            ConfigError: If there are fewer than two samples (images, classes).
        """
        if kind != 'class':
            return self.moments[kind].covariance(self.width)
        student, teacher, labels = self.class_means()
        if len(labels) < 2:
            raise ConfigError(
                f"similarity='class' needs at least 2 classes, found {len(labels)} in "
                "the ground truth; use similarity='gap'"
            )
        return Covariance.of(student, teacher)

    def class_means(self) -> tuple[Tensor, Tensor, Tensor]:
        """Class means ``(K, Cs)``, ``(K, Ct)`` and their labels ``(K,)``."""
        if self.classes is None:
            raise ConfigError("class means were not collected: add the kind 'class'")
        means, labels = self.classes.means()
        return means[:, : self.width], means[:, self.width :], labels


def pooled_rows(feature: Tensor) -> Tensor:
    """``(N, C)``, the mean over positions (padding of the batch included)."""
    if feature.ndim == 3:
        return feature.double().mean(1)
    return feature.double().flatten(2).mean(2) if feature.ndim > 2 else feature.double()


def position_rows(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides as ``(N * positions, C)``, brought to the same positions."""
    if student.ndim == teacher.ndim == 4 and student.shape[2:] != teacher.shape[2:]:
        (height, width), (height_t, width_t) = student.shape[2:], teacher.shape[2:]
        size = min(height, height_t), min(width, width_t)
        student, teacher = (F.adaptive_avg_pool2d(f, size) for f in (student, teacher))
    rows = [
        f.permute(0, 2, 3, 1).flatten(0, 2) if f.ndim == 4 else f.flatten(0, -2)
        for f in (student, teacher)
    ]
    if len(rows[0]) != len(rows[1]):
        raise ConfigError(
            f"similarity='spatial' needs the same positions, got student "
            f'{tuple(student.shape)} and teacher {tuple(teacher.shape)}'
        )
    return rows[0], rows[1]


def labelled_rows(
    feature: Tensor, samples: Sequence[Any], image_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Rows with a class: one per box of a detection sample, else one per label.

    Args:
        feature (Tensor): ``(N, C, H, W)`` for detections; any form for classification.
        samples (Sequence): N data samples.
        image_size (tuple[int, int]): Height and width of the batch in pixels, in
            which boxes are given.

    Returns:
        tuple[Tensor, Tensor]: Rows ``(n, C)`` and labels ``(n,)``.

    Raises:
        ConfigError: If the samples have no ground truth.
    """
    if all('gt_instances' in sample for sample in samples):
        return _box_rows(feature, samples, image_size)
    if all('gt_label' in sample for sample in samples):
        labels = [sample.gt_label.flatten() for sample in samples]
        image = [torch.full_like(item, i) for i, item in enumerate(labels)]
        rows = pooled_rows(feature)[torch.cat(image).to(feature.device)]
        return rows, torch.cat(labels).to(feature.device)
    raise ConfigError(
        "similarity='class' needs ground truth (boxes or labels) in the training set; "
        "use similarity='gap'"
    )


def _box_rows(
    feature: Tensor, samples: Sequence[Any], image_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    if feature.ndim != 4:
        raise ConfigError(
            f"similarity='class' on detections pools inside boxes and needs (N, C, H, "
            f"W) maps, got {tuple(feature.shape)}; use similarity='gap'"
        )
    boxes, labels = [], []
    tall, wide = cell_size(tuple(feature.shape[2:]), image_size)
    scale = feature.new_tensor([1 / wide, 1 / tall]).float()
    for sample in samples:
        instances = sample.gt_instances
        found = getattr(instances.bboxes, 'tensor', instances.bboxes)
        boxes.append(found.to(scale) * scale.repeat(2))
        labels.append(instances.labels.to(feature.device))
    rows = roi_align(feature.float(), boxes, output_size=1, aligned=True)
    return rows.flatten(1), torch.cat(labels)
