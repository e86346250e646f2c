"""Contrastive representation distillation with memory banks (CRD)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather, all_reduce
from torch import Tensor, nn

from ..errors import ConfigError
from ..pair import FeaturePair
from ..registry import MODELS
from .base import Criterion
from .dkd import targets


def nce_loss(positive: Tensor, negative: Tensor, valid: Tensor, images: int) -> Tensor:
    r"""Noise-contrastive estimation, mean over images.

    :math:`-\log \frac{p}{p + m/M} - \sum_j \log \frac{m/M}{q_j + m/M}`, m the number of
    valid negatives of the image.

    Args:
        positive (Tensor): p, ``(N,)``, the normalised critic on pairs of one image.
        negative (Tensor): q, ``(N, K)``, on pairs of different images.
        valid (Tensor): ``(N, K)``, bool: which negatives count.
        images (int): M, the number of images in the data set.
    """
    noise = valid.sum(1, keepdim=True).to(negative.dtype) / images
    hit = (positive[:, None] / (positive[:, None] + noise)).log().squeeze(1)
    # log(1) where a negative does not count
    missed = (noise / (negative + noise)).masked_fill(~valid, 1).log().sum(1)
    return -(hit + missed).mean()


def indices_of(samples: Sequence[Any], images: int, device: torch.device) -> Tensor:
    """Each sample's place in the data set, ``(N,)``.

    Raises:
        ConfigError: If a sample has none, or one beyond ``images``.
    """
    found = [sample.metainfo.get('sample_idx') for sample in samples]
    if None in found:
        raise ConfigError(
            'CRDLoss remembers every image of the data set, and the data samples have '
            "no sample_idx: add 'sample_idx' to the meta_keys of PackInputs"
        )
    if max(found) >= images or min(found) < 0:
        raise ConfigError(
            f'CRDLoss(images={images}) met image {max(found)}: images is the size of '
            'the training set'
        )
    return torch.tensor(found).to(device, non_blocking=True)


@MODELS.register_module()
class CRDLoss(Criterion):
    """CRD, arXiv 1910.10699, equations 17 and 18, on pooled vectors.

    Both sides are projected to ``dim`` and to unit length. A pair of teacher and
    student vectors of one image is told apart from pairs of different images, whose
    vectors come from a memory bank of each side; the banks follow with ``momentum``,
    by the images' ``sample_idx``. The normalising constants are estimated on the first
    batch, as in the authors' code.

    Our choices: one draw of negatives serves the whole batch of a rank, which makes the
    comparison a matrix product (the authors draw for every image); negatives whose
    class is known to be the image's own are left out (the authors draw from the other
    classes). Ranks exchange what they put into the banks, which therefore agree.

    The two banks and the labels take ``images * (8 * dim + 8)`` bytes on the device and
    in the checkpoint: 52 MB for CIFAR at 128. With gradient accumulation the banks
    follow in every step; an EMA copy has banks of its own that are never used.

    Args:
        images (int): Size of the training set. Defaults to 50000.
        negatives (int): Drawn in a step. Defaults to 16384.
        dim (int): Of the embedding. Defaults to 128.
        tau (float): Temperature. Defaults to 0.07.
        momentum (float): Share of the old vector in a bank. Defaults to 0.5.
        weight (float): Weight of the link. Defaults to 0.8, the authors'.

    Shapes:
        ``(N, Cs)`` and ``(N, Ct)``, one level.

    Raises:
        ConfigError: For numbers out of range, other shapes, or samples without an
            index in the data set.
    """

    weighted = False
    sees_channel_order = False  # both sides are projected by layers that learn

    def __init__(
        self,
        *,
        images: int = 50000,
        negatives: int = 16384,
        dim: int = 128,
        tau: float = 0.07,
        momentum: float = 0.5,
        weight: float = 0.8,
    ) -> None:
        super().__init__(weight=weight)
        if min(images, negatives, dim) < 1 or tau <= 0 or not 0 <= momentum < 1:
            raise ConfigError(
                'CRDLoss needs images, negatives, dim >= 1, tau > 0 and 0 <= momentum '
                f'< 1, got {images}, {negatives}, {dim}, {tau}, {momentum}'
            )
        self.images, self.negatives, self.dim = images, negatives, dim
        self.tau, self.momentum = tau, momentum
        self.projections = nn.ModuleDict()
        for side in ('student', 'teacher'):
            bank = F.normalize(torch.randn(images, dim), dim=1)
            self.register_buffer(f'bank_{side}', bank)
        self.register_buffer('labels', torch.full((images,), -1))
        self.register_buffer('constants', torch.zeros(2))
        self._constants_known = False  # the same on the host
        self.register_load_state_dict_post_hook(_read_constants)

    def setup(self, pair: FeaturePair) -> None:
        sides = dict(student=pair.student, teacher=pair.teacher)
        for side, features in sides.items():
            if len(features) != 1 or features[0].ndim != 2:
                raise ConfigError(
                    'CRDLoss compares one pair of pooled vectors (N, C): tap the neck '
                    f'of a classifier ({pair.shapes()})'
                )
            self.projections[side] = nn.Linear(features[0].shape[1], self.dim)

    def forward(self, pair: FeaturePair) -> Tensor:
        """Weighted loss of the only level of ``pair``."""
        if pair.weight[0] is not None:
            raise ConfigError(
                'CRDLoss has no positions that a weight map could apply to'
            )
        device = pair.student[0].device
        with torch.autocast(device.type, enabled=False):
            student = self._embed('student', pair.student[0])
            teacher = self._embed('teacher', pair.teacher[0])
            if self.training:
                where = indices_of(pair.samples, self.images, device)
            else:  # the trial before training has no data set
                where = torch.arange(len(student), device=device) % self.images
            classes = targets(pair.samples, device)
            loss = self.weight * self._contrast(student, teacher, where, classes)
        if self.training:
            self._remember(student, teacher, where, classes)
        return loss

    def _embed(self, side: str, feature: Tensor) -> Tensor:
        return F.normalize(self.projections[side](feature.float()), dim=1)

    def _contrast(
        self, student: Tensor, teacher: Tensor, where: Tensor, classes: Tensor
    ) -> Tensor:
        """Each side against the other's bank."""
        drawn = torch.randint(self.images, (self.negatives,), device=where.device)
        valid = (self.labels[drawn] != classes[:, None]) & (drawn != where[:, None])
        critics = [
            (
                ((own * bank[where]).sum(1) / self.tau).exp(),
                (own @ bank[drawn].T / self.tau).exp(),
            )
            for own, bank in (
                (student, self.bank_teacher),
                (teacher, self.bank_student),
            )
        ]
        if self.training and not self._constants_known:
            self._set_constants(critics)
        scale = self.constants if self._constants_known else self._estimate(critics)
        return sum(
            nce_loss(p / scale[i], q / scale[i], valid, self.images)
            for i, (p, q) in enumerate(critics)
        )

    @torch.no_grad()
    def _estimate(self, critics: list[tuple[Tensor, Tensor]]) -> Tensor:
        return self.images * torch.stack([q.mean() for _, q in critics])

    def _set_constants(self, critics: list[tuple[Tensor, Tensor]]) -> None:
        found = self._estimate(critics)
        all_reduce(found, op='mean')
        self.constants.copy_(found)
        self._constants_known = True

    @torch.no_grad()
    def _remember(
        self, student: Tensor, teacher: Tensor, where: Tensor, classes: Tensor
    ) -> None:
        """Let the banks follow, by what all ranks have seen."""
        where, classes = (torch.cat(all_gather(v)) for v in (where, classes))
        for bank, new in ((self.bank_student, student), (self.bank_teacher, teacher)):
            new = torch.cat(all_gather(new.detach()))
            mean = self.momentum * bank[where] + (1 - self.momentum) * new
            bank[where] = F.normalize(mean, dim=1)
        self.labels[where] = classes


def _read_constants(module: CRDLoss, incompatible) -> None:
    """After a checkpoint was loaded, the host knows again what the buffer says."""
    module._constants_known = bool(module.constants.any())
