"""The teachers of a student as one: several, one that moves, the student itself."""

import copy
import inspect
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from .errors import ConfigError, nearest, within
from .link import Link
from .options import ProperFraction, check_options, checked
from .taps import Recording, Taps
from .teacher import Teacher

OWN = 'self'  # config of a teacher that is the student, in the same forward pass
AVERAGE = 'ema'  # config of a teacher that is the average of the student's weights
_OPTIONS = {*inspect.signature(Teacher).parameters}


class Average(Teacher):
    """The exponential moving average of the student's weights, as its teacher.

    Source: mean teacher (arXiv 1703.01780), its released code: the average is the
    plain mean of the first steps until ``momentum`` is reached. Buffers, such as the
    statistics of normalisations, are the student's. The average follows at the
    beginning of a training step, if the optimiser has changed the student since. It is
    part of the distiller's state, so that a resumed run goes on with it.

    Args:
        student (nn.Module): The plain student; copied.
        momentum (float): The student's part of the average at every step.
            Defaults to 0.001.
        plain_colours (bool): As of :class:`Teacher`: the mean teacher's weak
            augmentation. Defaults to False.
    """

    @checked
    def __init__(
        self,
        *,
        student: nn.Module,
        momentum: ProperFraction = 0.001,
        plain_colours: bool = False,
    ) -> None:
        super().__init__(
            config=copy.deepcopy(student),
            allow_same=True,
            plain_colours=plain_colours,
        )
        self.momentum = momentum
        self.steps = 0
        self._version = 0  # of all the student's weights together, when last seen
        self._watched: set[int] = set()  # ids of those weights
        self._stepped = False  # an optimiser, since then
        _hear_of_steps(self)

    def _note(self, optimizer: Optimizer) -> None:
        parameters = (p for group in optimizer.param_groups for p in group['params'])
        if any(id(p) in self._watched for p in parameters):
            self._stepped = True

    def settle(self, reached: set[nn.Module]) -> None:
        """All of it stays with the student, whatever the taps need."""
        super().settle(reached)
        self._unused = []

    def restart(self) -> None:
        """Begin with the student's weights as they will be then."""
        self.steps = 0

    @torch.no_grad()
    def follow(self, student: nn.Module) -> None:
        """Take in the weights of the student, if they have changed."""
        theirs = dict(student.named_parameters())
        own = dict(self.model.named_parameters())
        if not self._have_changed([theirs[name] for name in own]) and self.steps:
            return
        self.steps += 1
        weight = max(self.momentum, 1 / self.steps)
        if weight == 1:  # lerp keeps a NaN, which unset memory may hold
            for name, mean in own.items():
                mean.copy_(theirs[name])
        else:
            weights = [theirs[name].to(mean) for name, mean in own.items()]
            torch._foreach_lerp_(list(own.values()), weights, weight)
        buffers = dict(student.named_buffers())
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])

    def _have_changed(self, weights: Sequence[Tensor]) -> bool:
        """Whether they are others than at the last call, as far as one can tell.

        Fused optimisers, and those that write through ``p.data``, leave the version
        of a weight alone; what is not an optimiser, such as loading, takes no step.
        A step that the loss scaler makes void is none, except of a fused optimiser:
        only the accelerator knows of it, and asking would wait.
        """
        version = sum(p._version for p in weights if p.requires_grad)
        watched = set(map(id, weights))
        same = (version, watched) == (self._version, self._watched)
        changed = self._stepped or not same
        self._version, self._watched, self._stepped = version, watched, False
        return changed

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | dict(_watched=set())  # others where it is read

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _hear_of_steps(self)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of it."""
        return self.model.state_dict() | dict(steps=torch.tensor(self.steps))

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of :meth:`state`."""
        self.steps = int(state['steps'])
        own = {name: value for name, value in state.items() if name != 'steps'}
        self.model.load_state_dict(own)


def _hear_of_steps(average: Average) -> None:
    """Tell it of every optimiser's step, for as long as it lives."""
    method = weakref.WeakMethod(average._note)

    def tell(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        note = method()
        if note is not None:
            note(optimizer)

    handle = register_optimizer_step_post_hook(tell)
    weakref.finalize(average, handle.remove)


def named(teacher: Any) -> dict[str, dict]:
    """Every teacher of a config by name; the only one may have none.

    Args:
        teacher (dict | str): ``dict(config=...)``, ``'ema'``, ``'self'``, or a dict of
            them by name.

    Raises:
        ConfigError: For options that no teacher has.
    """
    if isinstance(teacher, str):
        teacher = dict(config=_known(teacher, 'teacher'))
    parts = list(teacher.values()) if isinstance(teacher, Mapping) else []
    several = any(p in (OWN, AVERAGE) or 'config' in p for p in parts if _names(p))
    if not several or not all(map(_names, parts)) or not _OPTIONS.isdisjoint(teacher):
        _check(teacher, 'teacher')
        return {OWN if teacher['config'] == OWN else '': teacher}
    found = {}
    for name, part in teacher.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ConfigError(f'teacher.{name}: a teacher is named by an identifier')
        where = f'teacher.{name}'
        part = dict(config=_known(part, where)) if isinstance(part, str) else part
        _check(part, where)
        found[name] = part
    return found


def with_files(teacher: Any) -> dict[str, dict]:
    """The parts of a config, to be changed, that read a config and weights.

    Those that do not are the student itself and its average.
    """
    parts = named(teacher).items()
    return {n: p for n, p in parts if p.get('config') not in (OWN, AVERAGE)}


def _names(part: Any) -> bool:
    """Whether it may say what a teacher is."""
    return isinstance(part, Mapping | str)


def _known(name: str, where: str) -> str:
    if name not in (OWN, AVERAGE):
        raise ConfigError(
            f'{where}={name!r}: expected a dict, {AVERAGE!r} (the average of the '
            f"student's weights) or {OWN!r} (the student itself)"
        )
    return name


def _check(options: Any, where: str) -> None:
    config = options.get('config') if isinstance(options, Mapping) else None
    if config not in (OWN, AVERAGE) or not isinstance(config, str):
        check_options(Teacher, options, where)
        return
    rest = {name: value for name, value in options.items() if name != 'config'}
    if config == AVERAGE:
        check_options(Average, rest, where, given=('student',))
    elif rest:
        raise ConfigError(f'{where}.{next(iter(rest))} is unknown beside config="self"')


class Teachers:
    """All teachers of a distilled model, asked as one.

    Each runs to its own last tap only, on images, in the type and format of its own.

    Args:
        configs (dict[str, dict]): Of :func:`named`.
        student (nn.Module): The plain student.
    """

    def __init__(self, *, configs: Mapping[str, dict], student: nn.Module) -> None:
        self.names = list(configs)
        self.guides: dict[str, Teacher] = {}
        for name, said in configs.items():
            rest = {key: value for key, value in said.items() if key != 'config'}
            with within_teacher(name):
                if said['config'] == AVERAGE:
                    self.guides[name] = Average(student=student, **rest)
                elif said['config'] != OWN:
                    self.guides[name] = Teacher(**said)
        self.own = [name for name in self.names if name not in self.guides]

    @property
    def only(self) -> Teacher:
        """The teacher, where there is one.

        Raises:
            ConfigError: If there are several, or it is the student itself.
        """
        if len(self.names) != 1 or not self.guides:
            raise ConfigError(
                'this needs one teacher with a network of its own, and there are '
                f'{", ".join(self.names)}'
            )
        return next(iter(self.guides.values()))

    @property
    def averages(self) -> dict[str, Average]:
        """Those that move."""
        return {n: g for n, g in self.guides.items() if isinstance(g, Average)}

    def assign(self, links: Mapping[str, Link]) -> None:
        """Say whose every tap is: ``'a:neck'``; the only teacher need not be named.

        Raises:
            ConfigError: If a name is missing or unknown, or a teacher has no link.
        """
        used = set()
        for link in links.values():
            specs = [self._whole(spec, link.name) for spec in link.specs['teacher']]
            link.specs['teacher'] = specs
            link.teachers = list(dict.fromkeys(map(network_of, specs)))
            used.update(link.teachers)
        if idle := [name for name in self.names if name not in used]:
            raise ConfigError(f'teacher.{idle[0]}: no link reads it')

    def _whole(self, spec: str, link: str) -> str:
        name = network_of(spec)
        if name in self.names:
            return spec
        if not name and len(self.names) == 1:
            return f'{self.names[0]}:{spec}'
        known = [f'{n}:{spec.rpartition(":")[2]}' for n in self.names if n]
        instead = nearest(spec, known) if known else 'there is one teacher, without'
        raise ConfigError(f'links.{link}.teacher {spec!r} names no teacher; {instead}')

    def connect(self, student: nn.Module, users: Mapping[str, str]) -> Taps:
        """Check all taps and say whose batches come.

        Args:
            student (nn.Module): Whose data preprocessor makes the batches.
            users (Mapping[str, str]): Link by tap.

        Returns:
            Taps: Those of all teachers together, to look them up.
        """
        found = []
        for name in self.names:
            mine = {s: link for s, link in users.items() if network_of(s) == name}
            guide = self.guides.get(name)
            model = guide.model if guide else student
            taps = Taps(specs=mine, model=model, owner='teacher', links=mine)
            if guide:
                guide.connect(student, taps)
            found.append(taps)
        return Taps.together(found)

    @property
    def plain_colours(self) -> bool:
        """Whether one of them sees images in the colours that they came with."""
        return any(guide.plain_colours for guide in self.guides.values())

    def __call__(
        self,
        inputs: Tensor,
        samples: Sequence[Any],
        specs: Sequence[str],
        plain: Tensor | None = None,
    ) -> Recording:
        """Run those whose taps are wanted on the student's batch.

        Args:
            inputs (Tensor): ``(N, C, H, W)``.
            samples (Sequence): Its data samples.
            specs (Sequence[str]): The taps wanted now.
            plain (Tensor, optional): The batch without augmentation of colours.
                Defaults to None: all see ``inputs``.
        """
        seen = {}
        for name, guide in self.guides.items():
            wanted = [spec for spec in specs if network_of(spec) == name]
            if wanted:
                own = plain if guide.plain_colours and plain is not None else inputs
                seen[name] = guide(own, samples, wanted)
        return Recording.together(seen)

    def lend(self, link: Link) -> None:
        """Keep what a link's stages run themselves, see :meth:`Teacher.lend`."""
        for name in link.teachers:
            if name in self.guides:
                lent = (m for stage in link.stages for m in stage.borrowed())
                self.guides[name].lend(lent)

    def network(self, name: str, student: nn.Module) -> nn.Module:
        """The network of one of them."""
        return self.guides[name].model if name in self.guides else student

    def follow(self, student: nn.Module) -> None:
        """Before a training step: what moves takes in the student's weights."""
        for guide in self.averages.values():
            guide.follow(student)

    def belongs_to(self, model: nn.Module) -> bool:
        """See :meth:`Teacher.belongs_to`; all have one owner."""
        return all([guide.belongs_to(model) for guide in self.guides.values()])

    def apply_to_tensors(self, fn: Callable) -> None:
        """Follow ``.to()``, ``.cuda()``, ``.half()`` of the student."""
        for guide in self.guides.values():
            guide.apply_to_tensors(fn)

    def describe(self) -> str:
        """Names and sizes, for the log."""
        texts = {n: g.describe() for n, g in self.guides.items()}
        texts |= dict.fromkeys(self.own, 'the student itself')
        return '; '.join(f'{n}: {text}' if n else text for n, text in texts.items())

    def __deepcopy__(self, memo: dict) -> 'Teachers':
        return self


def network_of(spec: str) -> str:
    """Which teacher a tap names; '' for the only one."""
    return spec.partition(':')[0] if isinstance(spec, str) and ':' in spec else ''


def within_teacher(name: str) -> AbstractContextManager:
    """Name the teacher in messages, where it has a name."""
    return within(f'teacher.{name}: ') if name else nullcontext()


def with_own(teacher: Recording, student: Recording) -> Recording:
    """Add what the student shows as its own teacher, without its gradient."""
    calls = {
        tap: [[tensor.detach() for tensor in call] for call in calls]
        for tap, calls in student.calls.items()
        if tap.network
    }
    if not calls:
        return teacher
    return replace(teacher, calls=teacher.calls | calls)
