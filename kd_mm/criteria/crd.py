"""Contrastive representation distillation with memory banks (CRD)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather, all_reduce
from mmengine.runner import Runner
from torch import Tensor, nn

from ..errors import ConfigError
from ..options import Count, NonNegative, Positive, ProperFraction, checked
from ..pair import VECTOR, FeaturePair
from ..registry import MODELS
from ..sizes import training_images
from .base import Criterion
from .dkd import targets

UNKNOWN = 1  # images, where no run is building the model


def refuse_several(dataset: Any) -> None:
    """Refuse data sets in one, whose images bear the same numbers.

    Raises:
        ConfigError: If there is more than one inside its wrappers.
    """
    while dataset is not None:
        if len(getattr(dataset, 'datasets', ())) > 1:
            raise ConfigError(
                'CRDLoss knows images by their sample_idx, which every part of a '
                f'{type(dataset).__name__} counts from 0: train on one data set'
            )
        dataset = getattr(dataset, 'dataset', None)


def nce_loss(positive: Tensor, negative: Tensor, valid: Tensor, images: int) -> Tensor:
    r"""Noise-contrastive estimation, mean over images.

    :math:`-\log \frac{p}{p + m/M} - \sum_j \log \frac{m/M}{q_j + m/M}`, m the number of
    valid negatives of the image.

    Args:
        positive (Tensor): log p, ``(N,)``, the normalised critic on pairs of one image.
        negative (Tensor): log q, ``(N, K)``, on pairs of different images.
        valid (Tensor): ``(N, K)``, bool: which negatives count.
        images (int): M, the number of images in the data set.
    """
    noise = (valid.sum(1, keepdim=True).to(negative.dtype) / images).log()
    hit = F.logsigmoid(positive - noise.squeeze(1))
    missed = F.logsigmoid(noise - negative).masked_fill(~valid, 0).sum(1)
    return -(hit + missed).mean()


def indices_of(samples: Sequence[Any], images: int) -> list[int]:
    """Each sample's place in the data set.

    Raises:
        ConfigError: If a sample has none, or one beyond ``images``.
    """
    found = [sample.metainfo.get('sample_idx') for sample in samples]
    if None in found:
        raise ConfigError(
            'CRDLoss remembers every image of the data set, and the data samples have '
            "no sample_idx: add 'sample_idx' to the meta_keys of PackInputs"
        )
    if images == UNKNOWN:
        raise ConfigError(
            'CRDLoss.images is missing: how many images there are to remember is only '
            "known to MMEngine's Runner"
        )
    if max(found) >= images:
        raise ConfigError(
            f'CRDLoss(images={images}) met image {max(found)}: images has to exceed '
            'every sample_idx. A fold or a subset numbers its images as the whole data '
            'set does, so give the size of that'
        )
    return found


@MODELS.register_module()
class CRDLoss(Criterion):
    """CRD, arXiv 1910.10699, equation 18 (as the authors' code numbers it), on vectors.

    Both sides are projected to ``dim`` and to unit length. A pair of teacher and
    student vectors of one image is told apart from pairs of different images, in both
    directions. All partners, the positive too, come from a memory bank of the other
    side, which the images' ``sample_idx`` points into and which follows with
    ``momentum`` after the loss was taken. The normalising constants are estimated on
    the first batch and kept, as in the authors' code.

    Our choices: one draw of negatives serves the whole batch of a rank, which makes the
    comparison a matrix product (the authors draw for every image, from the other
    classes); negatives whose class is known to be the image's own are left out, and N
    counts those that stay. The draw is seeded by the batch's own indices: it differs
    between ranks and batches, and is the same again in a resumed run. Ranks exchange
    what they put into the banks, which therefore agree; they need batches of one size,
    as MMEngine's samplers give.

    The two banks and the labels take ``images * (8 * dim + 8)`` bytes on the device and
    in the checkpoint: 52 MB for CIFAR, 1.3 GB for ImageNet at 128. With gradient
    accumulation the banks follow in every iteration, also where the weights do not;
    EMAHook copies them, and nothing reads the copy. A mixed image counts as the one it
    has ``sample_idx`` of, with the class of the largest share. ConcatDataset counts
    every part from 0, so that its parts would share entries of the banks.

    Args:
        images (int, optional): Size of the training set; of a fold or a subset, that of
            the whole set it is cut from. Defaults to None, what the Runner trains on.
        negatives (int): Drawn in a step. Defaults to 16384.
        dim (int): Of the embedding. Defaults to 128.
        tau (float): Temperature. Defaults to 0.07.
        momentum (float): Share of the old vector in a bank, in [0, 1).
            Defaults to 0.5.
        weight (float): Weight of the link. Defaults to 0.8, the authors'.

    Shapes:
        ``(N, Cs)`` and ``(N, Ct)``, one level.

    Raises:
        ConfigError: For numbers out of range, other shapes, or samples without an
            index in the data set.
    """

    reads_labels = True

    weighted = same_shape = False
    sees_channel_order = False  # both sides are projected by layers that learn
    layouts = (VECTOR,)

    @checked
    def __init__(
        self,
        *,
        images: Count | None = None,
        negatives: Count = 16384,
        dim: Count = 128,
        tau: Positive = 0.07,
        momentum: ProperFraction = 0.5,
        weight: NonNegative = 0.8,
    ) -> None:
        super().__init__(weight=weight)
        self.images = images or training_images() or UNKNOWN
        self.negatives, self.dim = negatives, dim
        self.tau, self.momentum = tau, momentum
        self.projections = nn.ModuleDict()
        for side in ('student', 'teacher'):
            bank = F.normalize(torch.randn(self.images, dim), dim=1)
            self.register_buffer(f'bank_{side}', bank)
        self.register_buffer('labels', torch.full((self.images,), -1))
        # log Z of either direction; 0 until the first batch, on the device because
        # the host need not know
        self.register_buffer('constants', torch.zeros(2))

    @torch.no_grad()
    def before_train(self, runner: Runner) -> None:
        """A run that starts anew may have another teacher: its bank is empty."""
        loader = getattr(runner, 'train_dataloader', None)
        refuse_several(getattr(loader, 'dataset', None))
        if runner._resume or not (self.labels >= 0).any():
            return
        aside = torch.Generator().manual_seed(0)
        for side in ('student', 'teacher'):
            bank = getattr(self, f'bank_{side}')
            bank.copy_(F.normalize(torch.randn(bank.shape, generator=aside), dim=1))
        self.labels.fill_(-1)
        self.constants.zero_()

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """A bank of unknown size becomes as large as the one in the checkpoint."""
        bank = state_dict.get(f'{prefix}bank_student')
        if self.images == UNKNOWN and bank is not None:
            self.images = len(bank)
            for name in ('bank_student', 'bank_teacher', 'labels'):
                own = getattr(self, name)
                setattr(self, name, own.new_zeros(self.images, *own.shape[1:]))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def setup(self, pair: FeaturePair) -> None:
        super().setup(pair)
        if len(pair.student) != 1:
            raise ConfigError(
                'CRDLoss compares one pair of pooled vectors (N, C): tap the neck of a '
                'classifier'
            )
        sides = dict(student=pair.student, teacher=pair.teacher)
        for side, features in sides.items():
            self.projections[side] = nn.Linear(features[0].shape[1], self.dim)

    def total(self, pair: FeaturePair) -> Tensor:
        """Loss of the only level of ``pair``."""
        if pair.weight[0] is not None:
            raise ConfigError(
                'CRDLoss has no positions that a weight map could apply to'
            )
        # Stages that only measure pass a detached student: nothing is remembered then
        learns = self.training and pair.student[0].requires_grad
        device = pair.student[0].device
        if self.training:
            found = indices_of(pair.samples, self.images)
        else:  # the trial before training has no data set
            found = [i % self.images for i in range(len(pair.student[0]))]
        where = torch.tensor(found).to(device, non_blocking=True)
        classes = targets(pair.samples, device)
        student = self._embed('student', pair.student[0])
        teacher = self._embed('teacher', pair.teacher[0])
        drawn = self._draw(found, device)
        valid = (self.labels[drawn] != classes[:, None]) & (drawn != where[:, None])
        critics = [
            self._critic(student, self.bank_teacher, where, drawn),
            self._critic(teacher, self.bank_student, where, drawn),
        ]
        constants = self._constants(critics, keep=learns)
        terms = [
            nce_loss(p - log_z, q - log_z, valid, self.images)
            for (p, q), log_z in zip(critics, constants, strict=True)
        ]
        if learns:
            self._remember(student, teacher, where, classes)
        return torch.stack(terms).sum()

    def _embed(self, side: str, feature: Tensor) -> Tensor:
        return F.normalize(self.projections[side](feature.float()), dim=1)

    def _draw(self, found: list[int], device: torch.device) -> Tensor:
        """Images of the negatives, ``(K,)``."""
        generator = torch.Generator(device).manual_seed(hash(tuple(found)) % 2**63)
        return torch.randint(
            self.images, (self.negatives,), generator=generator, device=device
        )

    def _critic(
        self, own: Tensor, bank: Tensor, where: Tensor, drawn: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logarithms on the positives, ``(N,)``, and on the negatives, ``(N, K)``."""
        positive = (own * bank[where]).sum(1) / self.tau
        return positive, own @ bank[drawn].T / self.tau

    @torch.no_grad()
    def _constants(self, critics: list[tuple[Tensor, Tensor]], *, keep: bool) -> Tensor:
        """log Z, ``(2,)``: those known, or M times the mean of this batch's critics."""
        negatives = torch.stack([q.detach() for _, q in critics]).flatten(1)
        found = negatives.logsumexp(1) + math.log(self.images / negatives.shape[1])
        if keep:
            all_reduce(found, op='mean')
        constants = torch.where(self.constants == 0, found, self.constants)
        if keep:
            fine = constants.isfinite().all()  # an overflow would stay
            self.constants.copy_(torch.where(fine, constants, self.constants))
        return constants

    @torch.no_grad()
    def _remember(
        self, student: Tensor, teacher: Tensor, where: Tensor, classes: Tensor
    ) -> None:
        """Let the banks follow, by what all ranks have seen."""
        where, classes = torch.cat(all_gather(torch.stack([where, classes])), 1)
        both = torch.cat(all_gather(torch.cat([student, teacher], 1)))
        # An image may come more than once, and the order of writing is undefined:
        # every copy writes what the first one does
        first = (where[:, None] == where).to(torch.uint8).argmax(1)
        for bank, new in zip(
            (self.bank_student, self.bank_teacher),
            both[first].split(self.dim, 1),
            strict=True,
        ):
            mean = self.momentum * bank[where] + (1 - self.momentum) * new
            # One overflow under AMP must not stay in the bank
            fine = mean.isfinite().all(1, keepdim=True)
            bank[where] = torch.where(fine, F.normalize(mean, dim=1), bank[where])
        self.labels[where] = classes[first]
