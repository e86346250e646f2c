"""A link: what is compared, and how."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from torch import Tensor, nn

from .criteria.base import Criterion
from .errors import ConfigError, nearest, within
from .options import Natural, Rule, check_options
from .pair import FeaturePair, LayoutError
from .registry import MODELS as OURS
from .schedule import Progress, Schedule
from .share import Part, Share
from .taps import Recording, Taps
from .utils.kinds import listed, spelled


@runtime_checkable
class Stage(Protocol):
    """What a link asks of its stages; :class:`kd_mm.stages.Stage` is all of it.

    Methods only: with data members ``issubclass`` refuses to answer.
    """

    def connect(self, teacher: nn.Module) -> None:
        """Look at the teacher once."""

    def see_prediction(self, features: Sequence[Tensor] | None) -> None:
        """What the student gives in prediction, where that is not what it trains on."""

    def borrowed(self) -> Sequence[nn.Module]:
        """The teacher's modules that the stage runs itself."""

    def setup(self, pair: FeaturePair) -> None:
        """Create parameters from the shapes in ``pair``."""

    def check(self, link: 'Link') -> None:
        """Complain about what surrounds the stage."""

    def unserved(self) -> str:
        """What does not happen in a training loop without DistillHook."""

    def too_few(self, pair: FeaturePair) -> bool:
        """Whether the batch is too small for the stage."""

    def check_time(self, progress: Progress) -> None:
        """Complain about moments that training does not reach."""

    def finish(self, pair: FeaturePair, criterion: Criterion) -> None:
        """Look at what the last stage left."""

    def suspect(self, logged: Mapping[str, np.ndarray]) -> str:
        """What is wrong with it by what it logged."""


Levels = Annotated[
    Sequence[Natural], Rule('with at least one', lambda levels: len(levels) > 0)
]
Paths = Annotated[
    Sequence[str], Rule('with at least one', lambda paths: len(paths) > 0)
]
SideLevels = dict[Literal['student', 'teacher'], Levels | None]


def levels_by_side(levels: Levels | dict | None) -> dict[str, list[int] | None]:
    """What a link says of its levels, for either side; None: all.

    Raises:
        ConfigError: If it is of another form.
    """
    if not isinstance(levels, dict):
        levels = dict(student=levels, teacher=levels)
    if set(levels) != {'student', 'teacher'}:
        raise ConfigError(
            f'levels is a list or dict(student=..., teacher=...), not {levels}'
        )
    return {side: None if v is None else list(v) for side, v in levels.items()}


class Link(nn.Module):
    """Taps on both networks, stages in order, one criterion.

    Args:
        name (str): The link's key in ``links``.
        student (str | list[str]): Tap or taps on the student, see
            :class:`kd_mm.taps.Tap`.
        teacher (str | list[str]): The same on the teacher.
        criterion (dict): Config of a :class:`kd_mm.criteria.Criterion`.
        stages (Sequence[dict]): Configs of :class:`kd_mm.stages.Stage`, applied in
            this order. Defaults to none.
        levels (list[int] | dict, optional): Which of the tapped tensors are compared,
            for both sides, or ``dict(student=[...], teacher=[...])``.
            Defaults to all.
        schedule (dict, optional): Keyword arguments of
            :class:`kd_mm.schedule.Schedule`. Defaults to constant.
        images (str): On which images it runs: 'labelled', those of the training,
            'unlabelled', those of ``unlabelled_dataloader``, or 'all'.
            Defaults to 'all'.
        share (float | dict, optional): The part of the gradient at the student's
            features that the link is held at, or keyword arguments of
            :class:`kd_mm.share.Share`. The schedule then scales that part instead of
            the loss. Defaults to None: what the criterion's weight makes of it.
    """

    def __init__(
        self,
        *,
        name: str,
        student: str | Paths,
        teacher: str | Paths,
        criterion: dict,
        stages: Sequence[dict] = (),
        levels: Levels | SideLevels | None = None,
        schedule: dict | None = None,
        share: Part | dict | None = None,
        images: Literal['all', 'labelled', 'unlabelled'] = 'all',
    ) -> None:
        super().__init__()
        self.name, self.images = name, images
        self.specs = {
            side: listed(taps)
            for side, taps in (('student', student), ('teacher', teacher))
        }
        with within(f'links.{name}.'):
            self.levels = levels_by_side(levels)
            check_options(Schedule, schedule or {}, 'schedule')
            self.schedule = Schedule(**(schedule or {}))
            self.share = self._read_share(share)
            self.stages = nn.ModuleList(
                self._build(cfg, Stage, f'stages[{i}]') for i, cfg in enumerate(stages)
            )
            self.criterion = self._build(criterion, Criterion, 'criterion')
        self.teachers: list[str] = ['']  # by name; several only before a merging stage
        self.too_few_in_one = ''  # which part a batch of one image says nothing to
        self._warned = False

    @staticmethod
    def _read_share(share: float | dict | None) -> Share | None:
        if share is None:
            return None
        options = share if isinstance(share, dict) else dict(target=share)
        check_options(Share, options, 'share')
        return Share(**options)

    @staticmethod
    def _build(cfg: dict, kind: type, where: str) -> Any:
        what = kind.__name__.lower()
        if not isinstance(cfg, dict) or not isinstance(cfg.get('type'), (str, type)):
            raise ConfigError(
                f'{where}: a {what} is dict(type="kd_mm....", ...), not {cfg!r}'
            )
        name = spelled(cfg['type'])
        try:
            part = MODELS.build(cfg)
        except KeyError as error:
            known = [
                f'kd_mm.{name}'
                for name, part in OURS.module_dict.items()
                if isinstance(part, type) and issubclass(part, kind)
            ]
            raise ConfigError(
                f'{where}: there is no {what} {name!r}; {nearest(name, known)}'
            ) from error
        except (TypeError, ValueError) as error:
            text = _called(name.rpartition('.')[2], error)
            raise ConfigError(f'{where} {text}') from error
        if not isinstance(part, kind):
            raise ConfigError(
                f'{where}: {name!r} is a {type(part).__name__}, not a {what} of kd_mm'
            )
        return part

    def setup(self, pair: FeaturePair, teacher: nn.Module | None = None) -> None:
        """Build every stage on the pair the stages before it leave, then try it all.

        Args:
            pair (FeaturePair): Of the trial.
            teacher (nn.Module, optional): What stages are shown before. Defaults to
                None, nothing.

        Raises:
            ConfigError: If a stage or the criterion does not fit; names it and the
                shapes it met.
        """
        if len(self.teachers) > 1 and not (self.stages and self.stages[0].merges):
            raise ConfigError(
                f'teacher reads {len(self.teachers)} teachers '
                f'({", ".join(self.teachers)}): put dict(type="kd_mm.MergeTeachers") '
                'first into the stages, or give each a link of its own'
            )
        self.eval()
        for position, stage in enumerate(self.stages):
            shapes = pair.shapes()
            try:
                if teacher is not None:
                    stage.connect(teacher)
                stage.setup(pair)
                self._try_one_image(stage, pair)
                pair = stage(pair)
            except (RuntimeError, ValueError) as error:
                kind = LayoutError if isinstance(error, LayoutError) else ConfigError
                where = f'stages[{position}] {_called(type(stage).__name__, error)}'
                raise kind(f'{where} ({shapes})') from error
        try:
            self.criterion.setup(pair)
            self._try_one_image(self.criterion, pair)
            for stage in self.stages:
                stage.finish(pair, self.criterion)
            self.criterion(pair)
        except (RuntimeError, ValueError) as error:
            kind = LayoutError if isinstance(error, LayoutError) else ConfigError
            raise kind(f'criterion: {error} ({pair.shapes()})') from error
        for position, stage in enumerate(self.stages):
            with within(f'stages[{position}] {type(stage).__name__}: '):
                stage.check(self)
        self.train()

    def features(self, side: str, taps: Taps, recording: Recording) -> list[Tensor]:
        """This link's levels out of what was recorded on one side."""
        networks: dict[str, list[Tensor]] = {}  # of several teachers, one by one
        for spec in self.specs[side]:
            tap = taps.taps[spec]
            networks.setdefault(tap.network, []).extend(recording.features(tap))
        levels, chosen = self.levels[side], []
        for found in networks.values():
            if levels is not None and max(levels) >= len(found):
                raise ConfigError(
                    f'{side} {self.specs[side]} gives {len(found)} levels, so level '
                    f'{max(levels)} is out of range'
                )
            chosen += found if levels is None else [found[i] for i in levels]
        return chosen

    def check_time(self, progress: Progress) -> None:
        """Complain about moments that a training of this length does not reach.

        A link without a weight does not run, so nothing of it matters.

        Raises:
            ConfigError: Names the stage and the option.
        """
        if not self.criterion.weight:
            return
        self.schedule.check(progress)
        progress = self.schedule.until_stop(progress)
        if self.share is not None:
            self.share.check_time(progress)
        for i, stage in enumerate(self.stages):
            try:
                stage.check_time(progress)
            except ConfigError as error:
                where = f'stages[{i}] {type(stage).__name__}'
                raise ConfigError(f'{where}: {error}') from error

    def factor(self, progress: Progress) -> float:
        """What everything of this link is multiplied with now; 0: it does not run.

        Where there is a share, that is what is multiplied.
        """
        if not self.criterion.weight or not all(s.ready for s in self.stages):
            return 0.0
        if self.share is not None and self.share.ended:
            return 0.0
        return self.schedule.factor(progress)

    def reads_labels(self) -> str:
        """Which of its parts reads the ground truth; '': none."""
        parts = (*self.stages, self.criterion)
        return next((type(p).__name__ for p in parts if p.reads_labels), '')

    def around(self, stage: Any) -> tuple[list, list]:
        """The stages in front of one of them, and those behind it."""
        stages = list(self.stages)
        place = stages.index(stage)
        return stages[:place], stages[place + 1 :]

    def unserved(self) -> list[str]:
        """What does not happen in a training loop without DistillHook."""
        return [text for stage in self.stages if (text := stage.unserved())]

    def idle(self, like: Tensor) -> dict[str, Tensor]:
        """Log entries of a step in which the link does not run.

        Under DDP every parameter has to take part in the loss, or the reducer waits
        for it; a sum over none of its numbers does that without
        ``find_unused_parameters``.
        """
        zero = like.new_zeros((), dtype=torch.float32)
        if get_world_size() > 1:
            for parameter in self.parameters():
                zero = zero + parameter.flatten()[:0].sum()
        return {f'loss_kd_{self.name}': zero}

    def _try_one_image(self, part: Any, pair: FeaturePair) -> None:
        if part.too_few(pair.first(1)) and not self.too_few_in_one:
            self.too_few_in_one = type(part).__name__

    def _meaningless(self, part: Any, pair: FeaturePair) -> dict[str, Tensor]:
        """Nothing for this step, and one warning for the run."""
        if not self._warned:
            self._warned = True
            MMLogger.get_current_instance().warning(
                f'links.{self.name}: {type(part).__name__} says nothing about a batch '
                f'of {len(pair.student[0])} ({pair.shapes()}); the loss of the link is '
                '0 in such a step'
            )
        return self.idle(pair.student[0])

    def forward(self, pair: FeaturePair, factor: float) -> dict[str, Tensor]:
        """Log entries of one step: losses, and diagnostics without gradient."""
        for stage in self.stages:
            if self.training and stage.too_few(pair):
                return self._meaningless(stage, pair)
            pair = stage(pair)
        if self.training and self.criterion.too_few(pair):
            return self._meaningless(self.criterion, pair)
        for stage in self.stages:
            stage.finish(pair, self.criterion)
        if self.share is not None:
            pair.student = self.share.end(pair.student, self.parameters())
        out = {f'loss_kd_{self.name}': factor * self.criterion(pair)}
        for name, loss in pair.losses.items():
            out[f'loss_kd_{self.name}_{name}'] = factor * loss
        if self.share is not None:
            out = {name: self.share.own(loss) for name, loss in out.items()}
        for name, value in pair.logs.items():
            if 'loss' in name:
                raise ConfigError(
                    f'links.{self.name}: a stage logs {name!r}, and MMEngine adds up '
                    'every log entry with "loss" in its name; rename it'
                )
            out[f'kd_{self.name}_{name}'] = torch.as_tensor(value).detach()
        return out


def _called(name: str, error: Exception) -> str:
    """What a part complains about, with the part's name in front once."""
    text = str(error)
    own = any(text.startswith(f'{name}{end}') for end in (':', '.', '(', ' '))
    return text if own else f'{name}: {text}'


def check_parts(name: str, cfg: dict) -> None:
    """Check the options of a link's stages and criterion before anything is built.

    Args:
        name (str): The link's.
        cfg (dict): Its config.

    Raises:
        ConfigError: What :func:`kd_mm.options.checked` would say while building.
    """
    parts = {f'stages[{i}]': part for i, part in enumerate(cfg.get('stages', ()))}
    for place, part in (parts | dict(criterion=cfg['criterion'])).items():
        kind = part.get('type') if isinstance(part, dict) else None
        kind = MODELS.get(kind) if isinstance(kind, str) else kind
        made_by = getattr(kind, '__init__', None)
        if isinstance(kind, type) and hasattr(made_by, '__wrapped__'):
            options = {k: v for k, v in part.items() if k not in ('type', '_scope_')}
            check_options(kind, options, f'links.{name}.{place} {kind.__name__}')
