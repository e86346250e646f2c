"""KCD: make the teacher's channels consistent with the student's."""

import math
from typing import Annotated, Literal

import torch
from mmengine.dist import broadcast
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import Tensor

from ...errors import ConfigError
from ...link import Link
from ...options import Count, Natural, Positive, at_least, checked
from ...pair import MAP, FeaturePair, channel_dim, channels, layout
from ...registry import MODELS
from ...schedule import Progress
from ...unaugmented import plain_dataset, plain_loader
from ...utils.pretraining import init_files
from ...utils.wrappers import unwrapped
from ..base import Stage
from .fit import fit_channels
from .matching import (
    MATRICES,
    ChannelMap,
    Transform,
    control_map,
    fit_map,
    matched_correlation,
    mix,
    rescaling,
    select,
    total_similarity,
)
from .moments import Covariance, Kind


@MODELS.register_module()
class ChannelAlign(Stage):
    """Bring the teacher's channels into the student's order. KCD.

    KCD, after the abstract of arXiv 2103.16844; everything below it is our choice.
    Two networks put different meanings into channel i. The channels of both are
    correlated on un-augmented training images, the teacher's are assigned to the
    student's, and the assignment is then fixed: an index-select of the teacher's
    feature, or one frozen 1x1 convolution. Until it is fitted the link does not run.

    The map belongs to the student it was fitted on. It is in the checkpoint, so a
    resumed run never fits it again; a run that starts anew always does.

    Args:
        transform (str): 'bipartite' (one-to-one with the largest total correlation),
            'greedy' (one-to-one, best pair first), 'grouped' (of a wider teacher
            every channel is assigned, a student channel gets the entry of largest
            magnitude of its group), 'procrustes' (rotation), 'ridge' (regression of
            the student on the teacher), and the controls 'identity' and 'random'.
            Defaults to 'bipartite'.
        similarity (str): What is correlated: 'gap' (features averaged over
            positions, one sample an image), 'class' (class means; of detections
            pooled inside the boxes) or 'spatial' (every position).
            Defaults to 'spatial'.
        fit_at (int | str): After how many epochs the map is fitted; 'start' is 0.
            A map can matter to a student that is trained already; one that starts from
            nothing can take on any order, and waiting costs it time.
            Defaults to 'start'.
        every (int, optional): Fit again every so many epochs during the first half of
            training; a level's map is only replaced when its total similarity gains
            more than 1 %. Defaults to None, never.
        by_epoch (bool): Whether ``fit_at`` and ``every`` are epochs; iterations
            otherwise. Defaults to True.
        images (int, optional): How many training images to use; None: all.
            Defaults to 5000.
        share (bool): Whether all levels use one map, fitted on their mean covariance;
            for heads that share weights over levels. Defaults to False.
        scale (bool): Whether the teacher's channels also get the student's mean and
            standard deviation, each its own scale and offset, for criteria that see
            them (MSELoss). Needs 'spatial'. Defaults to False.
        ridge (float): Regularisation of 'ridge', in mean variances of a teacher
            channel. Defaults to 0.01.
        seed (int): Of 'random'. Defaults to 0.

    Shapes:
        teacher ``(N, Ct, H, W)``, ``(N, L, Ct)`` or ``(N, Ct)`` -> Cs channels. If
        Ct < Cs and the map is no matrix, only the Ct matched channels of the student
        go on, on both sides.

    Raises:
        ConfigError: For unknown names, numbers out of range, or ``share`` over levels
            of different widths.
    """

    fitted_at: Tensor
    moves_channels = True

    @checked
    def __init__(
        self,
        *,
        transform: Transform = 'bipartite',
        similarity: Kind = 'spatial',
        fit_at: Natural | Literal['start'] = 'start',
        every: Count | None = None,
        by_epoch: bool = True,
        images: Annotated[int, at_least(2)] | None = 5000,
        share: bool = False,
        scale: bool = False,
        ridge: Positive = 0.01,
        seed: Natural = 0,
    ) -> None:
        super().__init__()
        self.transform, self.similarity = transform, similarity
        if scale and transform == 'grouped':
            raise ConfigError(
                "ChannelAlign(scale=True, transform='grouped'): of a group another "
                'channel is taken at every position, so no scale and offset fit; take '
                "transform='bipartite', or scale=False"
            )
        if scale and similarity != 'spatial':
            raise ConfigError(
                "ChannelAlign(scale=True) needs similarity='spatial': averages over "
                'positions vary less than the positions do'
            )
        if every and self.is_control:
            raise ConfigError(
                f'ChannelAlign.every={every} has no effect with transform='
                f'{transform!r}, which is fitted to nothing'
            )
        self.fit_at = 0 if fit_at == 'start' else fit_at
        self.every, self.by_epoch = every, by_epoch
        self.images, self.share, self.ridge, self.seed = images, share, ridge, seed
        self.scale = scale
        self.register_buffer('fitted_at', torch.tensor(-1))
        self._fitted_at = -1  # the same on the host: read in every step
        self.register_load_state_dict_post_hook(_read_fitted_at)

    # ---- shapes and use -------------------------------------------------------

    def setup(self, pair: FeaturePair) -> None:
        super().setup(pair)
        widths = [
            (channels(s), channels(t))
            for s, t in zip(pair.student, pair.teacher, strict=True)
        ]
        if self.share and len(set(widths)) > 1:
            raise ConfigError(f'ChannelAlign(share=True): widths differ: {widths}')
        self.levels = len(widths)
        self._boxless = [
            level
            for level, sides in enumerate(zip(pair.student, pair.teacher, strict=True))
            if any(layout(feature) != MAP for feature in sides)
        ]
        self.widths = widths[:1] if self.share else widths
        for i, (width_s, width_t) in enumerate(self.widths):
            start = control_map('identity', width_s, width_t, 0)
            if self.transform in MATRICES:
                matrix = torch.eye(width_s, width_t)
                self.register_buffer(f'matrix_{i}', matrix)
                continue
            groups = -(-width_t // width_s) if self.transform == 'grouped' else 1
            self.register_buffer(f'index_{i}', start.first.repeat(groups, 1))
            if width_t < width_s:
                self.register_buffer(f'kept_{i}', start.kept)
        for level, (width_s, width_t) in enumerate(widths if self.scale else ()):
            narrow = self.transform not in MATRICES and width_t < width_s
            width = width_t if narrow else width_s
            self.register_buffer(f'scale_{level}', torch.ones(width))
            self.register_buffer(f'offset_{level}', torch.zeros(width))

    def check(self, link: Link) -> None:
        """Warn where the map cannot matter."""
        own = [stage for stage in link.stages if isinstance(stage, ChannelAlign)]
        if len(own) > 1:
            raise ConfigError('a link has room for one ChannelAlign')
        criterion = type(link.criterion).__name__
        where = f'links.{link.name}: ChannelAlign(transform={self.transform!r})'
        warn = MMLogger.get_current_instance().warning
        if not link.criterion.sees_channel_order:
            warn(
                f'{where} cannot help {criterion}, which does not compare channels '
                'whose order is open: it sums them out, or they are classes'
            )
        _, later = link.around(self)
        mixers = [type(stage).__name__ for stage in later if stage.mixes_channels]
        reorders = self.transform not in MATRICES and all(
            s == t for s, t in self.widths
        )
        if mixers and reorders and self.transform != 'identity':
            warn(
                f'{where} cannot help {criterion} behind a freshly initialised '
                f'{mixers[0]}, which learns any order of channels equally well; remove '
                'one of the two'
            )

    def map(self, level: int) -> ChannelMap:
        """The map of one level, on the buffers' device."""
        i = 0 if self.share else level
        width_s, _ = self.widths[i]
        kept = getattr(self, f'kept_{i}', None)
        if kept is None:
            kept = torch.arange(width_s, device=self.fitted_at.device)
        return ChannelMap(
            kept, getattr(self, f'index_{i}', None), getattr(self, f'matrix_{i}', None)
        )

    def forward(self, pair: FeaturePair) -> FeaturePair:
        for level in range(self.levels):
            i = 0 if self.share else level
            student, teacher = pair.student[level], pair.teacher[level]
            if self.transform in MATRICES:
                teacher = mix(teacher, getattr(self, f'matrix_{i}'))
            else:
                teacher = select(teacher, getattr(self, f'index_{i}'))
            if hasattr(self, f'kept_{i}'):
                kept = getattr(self, f'kept_{i}')
                pair.student[level] = student.index_select(channel_dim(student), kept)
            if self.scale:
                shape = [-1] + [1] * (teacher.ndim - channel_dim(teacher) - 1)
                scale = getattr(self, f'scale_{level}').to(teacher.dtype).view(shape)
                offset = getattr(self, f'offset_{level}').to(teacher.dtype).view(shape)
                teacher = torch.addcmul(offset, teacher, scale)
            pair.teacher[level] = teacher
        return pair

    # ---- fitting --------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the map is fitted."""
        return self._fitted_at >= 0

    def unserved(self) -> str:
        if self.ready:
            return ''
        return (
            'ChannelAlign is not fitted, so its link does nothing; call '
            'kd_mm.stages.kcd.fit_channels'
        )

    def check_time(self, progress: Progress) -> None:
        progress.check('fit_at', self.fit_at, self.by_epoch, begins=True)
        progress.check('every', self.every or 0, self.by_epoch, begins=True)
        end = progress.end(self.by_epoch)
        if self.every and end and 2 * (self.fit_at + self.every) >= end:
            raise ConfigError(
                f'every={self.every} is without effect: fit_at={self.fit_at} and '
                f'{self.every} more are not within the first half of {end:g}; make '
                'one of them smaller, leave every out, or train longer'
            )

    def before_train(self, runner: Runner) -> None:
        """Check that the map can be fitted; forget one from an earlier run."""
        if self._fitted_at >= 0 and not runner._resume:
            runner.logger.info(
                'ChannelAlign: training starts anew, so the map in the checkpoint will '
                'be fitted again'
            )
            self._mark(-1)
        # now rather than when the time has come
        if self._fitted_at < 0 and (self.scale or not self.is_control):
            annotations = self.similarity == 'class'
            plain_dataset(runner.train_dataloader.dataset, runner.cfg, annotations)
        if self.fit_at == 0 and not (self.is_control or has_learnt(runner)):
            MMLogger.get_current_instance().warning(
                f'ChannelAlign(transform={self.transform!r}) cannot matter yet: the '
                "student's channels are at their random start, and such a student "
                'takes on any order; it matters to one that is trained already '
                '(load_from=..., pretrained weights)'
            )

    def before_train_iter(self, runner: Runner, data_batch: dict) -> None:
        """Fit when the time has come, together with all other stages that are due."""
        self._check_boxes(data_batch)
        if not self.due(runner):
            return
        model = unwrapped(runner.model)
        stages = [
            stage
            for link in model.distiller.links.values()
            for stage in link.stages
            if isinstance(stage, ChannelAlign)
            and stage.due(runner)
            and link.criterion.weight
        ]
        learners = [s for s in stages if s.scale or not s.is_control]
        if learners:
            counts = [stage.images or math.inf for stage in learners]
            loader = plain_loader(
                runner.cfg,
                runner.train_dataloader.dataset,
                images=None if math.inf in counts else int(max(counts)),
                annotations=any(s.similarity == 'class' for s in learners),
            )
            images = fit_channels(model, learners, loader)
            runner.logger.info(f'kd_mm: matched channels on {images} images')
        for stage in stages:
            if stage not in learners:
                stage.fit([])
            stage._mark(stage._done(Progress.of(runner)))

    def _check_boxes(self, data_batch: dict) -> None:
        """Say before the first step what the fit would trip over epochs later."""
        samples = data_batch.get('data_samples') or []
        boxes = any('gt_instances' in sample for sample in samples[:1])
        if self.similarity == 'class' and self._boxless and boxes:
            raise ConfigError(
                "ChannelAlign(similarity='class') pools inside boxes on detectors, and "
                f"levels {self._boxless} are not {MAP}: use 'gap' or 'spatial', or put "
                'dict(type="kd_mm.TokensToMap") before it'
            )

    @property
    def is_control(self) -> bool:
        """Whether the order needs no data."""
        return self.transform in ('identity', 'random')

    def due(self, runner: Runner) -> bool:
        """Whether the map should be fitted now."""
        progress = Progress.of(runner)
        done, end = self._done(progress), progress.end(self.by_epoch)
        if self._fitted_at < 0:
            return done >= self.fit_at
        if self.every is None or self.is_control:
            return False
        first_half = end is None or 2 * done < end
        return done >= self._fitted_at + self.every and first_half

    def _done(self, progress: Progress) -> int:
        """Whole epochs or iterations; 0 where only the start needs no counting."""
        countable = self.fit_at or self.every
        return int(progress.at(self.by_epoch)) if countable else 0

    def fit(self, covariances: list[Covariance]) -> None:
        """Set the maps from covariances, one per level; none for the controls.

        A map that is fitted already is only replaced by one that is more than 1 %
        better.
        """
        logger = MMLogger.get_current_instance()
        of_levels = covariances
        if self.share and covariances:
            covariances = [Covariance.pooled(covariances)]
        for i, (width_s, width_t) in enumerate(self.widths):
            if self.is_control:
                new = control_map(self.transform, width_s, width_t, self.seed + i)
                self._store(i, new)
                continue
            cov = covariances[i]
            new = fit_map(self.transform, cov, ridge=self.ridge)
            before, after = (total_similarity(cov, m) for m in (self.map(i), new))
            if self._fitted_at >= 0 and after <= 1.01 * before:
                logger.info(f'ChannelAlign level {i}: the map stays')
                continue
            self._store(i, new)
            same = control_map('identity', width_s, width_t, 0)
            was, now = (matched_correlation(cov, m).mean() for m in (same, new))
            logger.info(
                f'ChannelAlign level {i}: mean correlation of matched channels '
                f'{was:.3f} -> {now:.3f} ({self.transform}, {self.similarity})'
            )
        for level, cov in enumerate(of_levels if self.scale else ()):
            for name, value in zip(
                ('scale', 'offset'), rescaling(cov, self.map(level)), strict=True
            ):
                buffer = getattr(self, f'{name}_{level}')
                buffer.copy_(value)
                broadcast(buffer)
        self._mark(max(self._fitted_at, 0))

    def _store(self, i: int, new: ChannelMap) -> None:
        for name in ('kept', 'index', 'matrix'):
            buffer = getattr(self, f'{name}_{i}', None)
            if buffer is not None:
                buffer.copy_(getattr(new, name))
                broadcast(buffer)  # rounding must not make ranks disagree

    def _mark(self, when: int) -> None:
        self.fitted_at.fill_(when)
        self._fitted_at = when


def has_learnt(runner: Runner) -> bool:
    """Whether the student starts from weights that mean something."""
    model = unwrapped(runner.model)
    if runner._has_loaded or getattr(model, 'inherited', ()):
        return True
    if getattr(model, 'keeps_weights', False):  # it was built, and perhaps trained
        return True
    return any(init_files(module) for module in model.modules())


def _read_fitted_at(stage: ChannelAlign, incompatible) -> None:
    stage._fitted_at = int(stage.fitted_at)
