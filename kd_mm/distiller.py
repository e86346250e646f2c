"""The part of a distilled model that exists only while it trains."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from .diagnostics import GradientShare, NonFiniteWatch
from .errors import ConfigError
from .link import Link
from .pair import FeaturePair
from .schedule import Progress
from .share import ratios
from .taps import Recording, Taps
from .teacher import Teacher
from .teachers import AVERAGE, Teachers, network_of, with_own


class Distiller(nn.Module):
    """The teacher and the named links.

    The teacher is not a submodule: it is in no state dict, optimiser, EMA copy or DDP
    bucket, yet follows every ``.to()``. A copy of the distiller shares it, and does not
    take it along when it is moved or cast.

    Args:
        teachers (Teachers): The frozen networks.
        links (dict[str, Link]): The links by name.
        taps (dict[str, Taps]): Taps of the 'student' and of the 'teacher'.
        share_interval (int): Measure the gradient share every so many steps; 0: never.
        stop_on_nan (bool): Whether :class:`NonFiniteWatch` ends a run that is lost.

    Attributes:
        links_config (dict[str, dict]): What ``links`` of a config would say; complete,
            where they were found by themselves.
        found_by (str): By which name, as a config says it; '' where they were given.
        progress (Progress | None): Where training is, as
            :class:`kd_mm.hooks.DistillHook` says before every iteration.
    """

    def __init__(
        self,
        *,
        teachers: Teachers,
        links: dict[str, Link],
        taps: dict[str, Taps],
        share_interval: int,
        stop_on_nan: bool,
    ) -> None:
        super().__init__()
        self.teachers = teachers
        teachers.belongs_to(self)
        self.links = nn.ModuleDict(links)
        self.taps = taps
        self.links_config: dict[str, dict] = {}
        self.found_by = ''
        self.share_interval = share_interval
        self.unlabelled: dict | None = None  # a batch for the coming step
        self.measuring = True  # not in passes that the student does not learn from
        self.progress: Progress | None = None
        self._complained = False
        self.shares = {name: GradientShare() for name in links}
        self.watch = NonFiniteWatch(stop=stop_on_nan)
        self.register_load_state_dict_post_hook(_plain_student_is_complete)

    def _apply(self, fn: Callable, recurse: bool = True) -> 'Distiller':
        super()._apply(fn, recurse)
        if self.teachers.belongs_to(self):
            self.teachers.apply_to_tensors(fn)
        return self

    @property
    def teacher(self) -> Teacher:
        """The teacher, where there is one; see :attr:`Teachers.only`."""
        return self.teachers.only

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, guide in self.teachers.averages.items():
            for key, value in guide.state().items():
                destination[f'{prefix}average.{name or AVERAGE}.{key}'] = value

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list[str],
        *args: Any,
    ) -> None:
        rest = dict(state_dict)
        for name, guide in self.teachers.averages.items():
            begin = f'{prefix}average.{name or AVERAGE}.'
            own = guide.state()
            found = {k: rest.pop(f'{begin}{k}') for k in own if f'{begin}{k}' in rest}
            lost = [key for key in own if key not in found]
            if lost:
                missing_keys += [f'{begin}{key}' for key in lost]
            else:
                guide.load(found)
        super()._load_from_state_dict(
            rest, prefix, local_metadata, strict, missing_keys, *args
        )

    def now(self) -> Progress:
        """Where training is; without a hook that says so, what the message hub says."""
        return self.progress or Progress.now()

    def factors(self) -> dict[str, float]:
        """Factor of every link at this moment of training."""
        if self.progress is None and not self._complained:
            self._complain()
        progress = self.now()
        return {name: link.factor(progress) for name, link in self.links.items()}

    def _complain(self) -> None:
        """Say once what a training loop without our hook leaves out."""
        self._complained = True
        missing = [
            f'links.{name}: {text}'
            for name, link in self.links.items()
            for text in link.unserved()
        ]
        if any(guide.validate for guide in self.teachers.guides.values()):
            missing.append('teacher.validate is ignored')
        MMLogger.get_current_instance().warning(
            "kd_mm: this training loop does not call DistillHook; MMEngine's Runner "
            'and FlexibleRunner do: nothing checks what is resumed, and how far '
            'training is comes from the current message hub'
            + ''.join(f'; {text}' for text in missing)
        )

    def on(self, images: str, factors: dict[str, float]) -> dict[str, float]:
        """Factors of the links for 'labelled' or 'unlabelled' images."""
        links = self.links.items()
        return {n: factors[n] * (k.images in ('all', images)) for n, k in links}

    def specs(self, side: str, factors: dict[str, float]) -> list[str]:
        """Taps that the links with a factor above 0 need on one side.

        Those of a teacher that is the student itself are the student's.
        """
        found = dict.fromkeys(
            (spec, side_of)
            for name, link in self.links.items()
            for side_of in ('student', 'teacher')
            for spec in link.specs[side_of]
            if factors[name]
        )
        own = self.teachers.own
        return [
            spec
            for spec, side_of in found
            if side == ('student' if network_of(spec) in own else side_of)
        ]

    def forward(
        self,
        student: Recording,
        teacher: Recording,
        samples: Sequence[Any],
        image_size: tuple[int, int],
        factors: dict[str, float],
    ) -> dict[str, Tensor]:
        """Losses and diagnostics of all links for one batch."""
        pairs = {
            name: self.pair(link, student, teacher, samples, image_size)
            for name, link in self.links.items()
            if factors[name]
        }
        for name, pair in pairs.items():
            self._check_gradient(self.links[name], pair.student, student)
        self._hold_shares(pairs, factors)
        out: dict[str, Tensor] = {}
        for name, pair in pairs.items():
            share = self.links[name].share
            if share is None and self.measuring and self.share_interval:
                watch = self.shares[name].watch
                pair.student = watch(pair.student, self.share_interval)
            out.update(self.links[name](pair, factors[name] if share is None else 1.0))
            if self.measuring:
                out.update(self._measured(name))
        return out

    def _measured(self, name: str) -> dict[str, Tensor]:
        """What gradients have said of a link so far."""
        share, prefix = self.links[name].share, f'kd_{name}'
        value = (share or self.shares[name]).value
        out = {} if value is None else {f'{prefix}_gradient_share': value}
        if share is not None:
            weight = self.links[name].criterion.weight
            out[f'{prefix}_weight'] = weight * share.weight
            out[f'{prefix}_agreement'] = share.agreement.clone()
        return out

    def _hold_shares(
        self, pairs: dict[str, FeaturePair], factors: dict[str, float]
    ) -> None:
        """Put the multipliers of links with a share behind the student's features."""
        now = self.now()
        shares = {name: self.links[name].share for name in pairs}
        held = {name: share for name, share in shares.items() if share is not None}
        if not held:
            return
        targets = {name: factors[name] * s.target(now) for name, s in held.items()}
        wanted = ratios(targets, {name: pairs[name].student for name in held})
        measuring = self.measuring and torch.is_grad_enabled()
        if measuring:
            self.settle()
            for name, share in held.items():
                share.judge(now, name)
        probe = measuring and any(share.due(now) for share in held.values())
        for name, share in held.items():
            pairs[name].student = share.hold(
                pairs[name].student,
                wanted[name],
                probe=probe,
                frozen=share.frozen(now),
            )
            if measuring:
                share.count()

    def hear(self, losses: dict[str, Any], factors: dict[str, float]) -> None:
        """Take note of the student's own losses, which guard it against its links."""
        if not self.measuring or not torch.is_grad_enabled():
            return
        for name, link in self.links.items():
            if link.share is not None and factors[name]:
                link.share.hear(losses)

    @contextmanager
    def not_measuring(self) -> Iterator[None]:
        """Inside, no part of a gradient is measured: it would lack the task's."""
        before, self.measuring = self.measuring, False
        try:
            yield
        finally:
            self.measuring = before

    def settle(self) -> None:
        """Let all shares follow what the last backward pass found."""
        for link in self.links.values():
            if link.share is not None:
                link.share.settle()

    def idle(self, like: Tensor, factors: dict[str, float]) -> dict[str, Tensor]:
        """Log entries of the links that do not run now."""
        out = {}
        for name, link in self.links.items():
            if not factors[name]:
                out.update(link.idle(like))
        return out

    def pair(
        self,
        link: Link,
        student: Recording,
        teacher: Recording,
        samples: Sequence[Any],
        image_size: tuple[int, int],
    ) -> FeaturePair:
        """Collect both sides of a link.

        Raises:
            ConfigError: If the sides have different numbers of levels.
        """
        teacher = with_own(teacher, student)
        seen = teacher.of(link.teachers[0])
        pair = FeaturePair(
            link=link.name,
            student=link.features('student', self.taps['student'], student),
            teacher=link.features('teacher', self.taps['teacher'], teacher),
            samples=samples,
            image_size=image_size,
            padded_size=seen.image_size,
            shown_size=seen.shown_size,
            progress=self.now(),
        )
        if len(link.teachers) * len(pair.student) != len(pair.teacher):
            raise ConfigError(
                f'links.{link.name}: student {link.specs["student"]} gives '
                f'{len(pair.student)} levels, teacher {link.specs["teacher"]} '
                f'{len(pair.teacher)}; choose with levels=dict(student=[...], '
                'teacher=[...])'
            )
        return pair

    def _check_gradient(self, link: Link, features: list[Tensor], seen: Recording):
        if not torch.is_grad_enabled():
            return
        if not all(feature.requires_grad for feature in features):
            raise ConfigError(
                f'links.{link.name}: student {link.specs["student"]} carries no '
                'gradient, so nothing can be distilled into it: it lies in a frozen '
                'stage or inside re-entrant activation checkpointing; tap the '
                'checkpointed module itself or a later one'
            )
        for spec in link.specs['student']:
            if seen.overwritten(self.taps['student'].taps[spec]):
                raise ConfigError(
                    f'links.{link.name}: the output of {spec!r} is changed in place '
                    'later in the forward pass; tap the module that changes it'
                )


def _plain_student_is_complete(module: Distiller, incompatible) -> None:
    """Loading plain student weights is no reason to complain about the distiller."""
    own = len(module.state_dict())
    missing = [k for k in incompatible.missing_keys if 'distiller.' in k]
    if len(missing) == own:
        for key in missing:
            incompatible.missing_keys.remove(key)
