"""What every module of both networks gives, from one trial pass of each."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..rehearsal import NotReachedError, shown_to_teacher, trial_batch, tried
from ..sizes import Size
from ..taps import Taps
from ..teacher import Teacher
from ..trial import Pass, reason, stand_in, trial

_HEADS = ('head', 'decoder')  # in names: they choose regions, queries or classes
# MMPretrain's classes whose scores are sigmoids without saying so
_ONE_BY_ONE = {'MultiLabelClsHead', 'FocalLoss'}


@dataclass(frozen=True)
class Given:
    """One tensor that a module gave.

    Attributes:
        shape (tuple[int, ...]): Its shape.
        index (tuple[int, ...]): Where it stands in the (nested) output.
    """

    shape: tuple[int, ...]
    index: tuple[int, ...]


@dataclass(frozen=True)
class Point:
    """A module that ran, in the order in which modules were done.

    Attributes:
        path (str): As in ``named_modules()``.
        given (tuple[Given, ...]): Floating tensors of its output.
        whole (bool): Whether the output is nothing else.
        calls (int): How often it ran.
        fed (bool): Whether it was given a floating tensor.
        learns (bool): Whether weights that are trained are in it or came before.
        leaf (bool): Whether it has no modules inside.
    """

    path: str
    given: tuple[Given, ...]
    whole: bool
    calls: int
    fed: bool
    learns: bool
    leaf: bool

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of all tensors."""
        return tuple(item.shape for item in self.given)


@dataclass
class Survey:
    """A network's points.

    Attributes:
        owner (str): 'student' or 'teacher'.
        name (str): The network's class.
        points (dict[str, Point]): By path, in the order in which they were done.
        heads (set[str]): Direct children that turn features into predictions.
        image_size (tuple[int, int]): Height and width of what the network saw.
        batch_size (tuple[int, int]): The same of the student's batch; a teacher's may
            be padded further.
        sigmoid (bool): Whether the classes are scored one by one.
    """

    owner: str
    name: str
    points: dict[str, Point] = field(default_factory=dict)
    heads: set[str] = field(default_factory=set)
    image_size: Size = (0, 0)
    batch_size: Size = (0, 0)
    sigmoid: bool = False
    entered: str = ''  # the direct child that was begun last
    _trained: bool = False

    def reaches_heads(self) -> bool:
        """Whether the pass ended in a head or between modules, not in a trunk."""
        return bool(self.points) and (
            self.entered in self.heads or self.entered in self.points
        )


def survey(
    student: nn.Module, guide: Teacher, *, size: Size | None
) -> tuple[Survey, Survey]:
    """Run both networks on the same random images and note what their modules give.

    Only the student's points that have the same shapes in training and in prediction
    are kept. No random numbers are drawn, and neither network is changed.

    Args:
        student (nn.Module): The student, not yet distilled.
        guide (Teacher): The teacher.
        size (tuple[int, int], optional): Height and width of the images; None: those
            of :func:`kd_mm.sizes.candidates`, until one works.

    Raises:
        ConfigError: If one of them reaches its heads at no size and on no device.
    """
    guide.connect(student, _no_taps(guide.model, 'teacher'))
    taps = _no_taps(student, 'student')

    def once(shape: tuple[int, int, int], device: str, fresh: bool):
        inputs, samples = trial_batch(student, shape, device)
        try:
            twin = stand_in(student, fresh=fresh)
        except Exception as error:
            with _noted(student, 'student') as seen:
                shown = trial(student, taps, inputs, samples, mode='predict')
            _check(shown, seen, f'prediction (it cannot be copied: {reason(error)})')
        else:
            with _noted(twin, 'student') as seen:
                shown = trial(twin, taps, inputs, samples, mode='loss')
            with _noted(twin, 'student') as predicting:
                again = trial(twin, taps, inputs, samples, mode='predict')
            if not seen.reaches_heads() and not again.failure:
                seen = predicting  # as the rehearsal will, with a line that says so
            else:
                _check(shown, seen, 'training')
            if not again.failure:
                _keep_common(seen, predicting)
        with _noted(guide.model, 'teacher') as theirs:
            shown = shown_to_teacher(guide, inputs, samples)
        _check(shown, theirs, 'prediction')
        theirs.batch_size = seen.batch_size
        return seen, theirs

    return tried(student, [guide], once, size=size)


def _no_taps(model: nn.Module, owner: str) -> Taps:
    return Taps(specs=(), model=model, owner=owner)


def _check(shown: Pass, seen: Survey, when: str) -> None:
    if shown.failure and not seen.reaches_heads():
        where = f' in {seen.entered!r}' if seen.entered else ''
        raise NotReachedError(
            seen.owner,
            f'the {seen.owner} {seen.name} cannot be tried in {when}, it fails'
            f'{where}: {shown.failure}',
        )


def _keep_common(training: Survey, predicting: Survey) -> None:
    """Drop what differs in prediction: queries, regions, auxiliary heads."""
    others = predicting.points
    training.points = {
        path: point
        for path, point in training.points.items()
        if path not in others or others[path].shapes == point.shapes
    }


@contextmanager
def _noted(model: nn.Module, owner: str) -> Iterator[Survey]:
    """Note all modules in the forward pass inside."""
    seen = Survey(owner, type(model).__name__)
    seen.heads = {
        name for name, child in model.named_children() if _is_head(name, child)
    }
    seen.sigmoid = _scores_one_by_one(model, seen.heads)

    def enter(name: str, module: nn.Module) -> None:
        seen.entered = name.split('.')[0]
        seen._trained |= any(p.requires_grad for p in module.parameters(recurse=False))

    def done(name: str, module: nn.Module, args: Sequence, output: Any) -> None:
        given, whole = _tensors(output)
        before = seen.points.pop(name, None)
        seen.points[name] = Point(
            path=name,
            given=tuple(given),
            whole=whole,
            calls=before.calls + 1 if before else 1,
            fed=bool(_tensors(args)[0]),
            learns=seen._trained,
            leaf=not any(module.children()),
        )

    def begin(module: nn.Module, args: Sequence) -> None:
        seen.image_size = seen.batch_size = tuple(args[0].shape[2:])

    handles = [model.register_forward_pre_hook(begin)]
    for name, module in model.named_modules():
        if name and not name.startswith('data_preprocessor'):
            handles += [
                module.register_forward_pre_hook(
                    lambda module, _, name=name: enter(name, module)
                ),
                module.register_forward_hook(
                    lambda module, args, kwargs, output, name=name: done(
                        name, module, [*args, *kwargs.values()], output
                    ),
                    with_kwargs=True,
                ),
            ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _is_head(name: str, child: nn.Module) -> bool:
    """By its name, or because it computes losses."""
    return any(text in name for text in _HEADS) or callable(getattr(child, 'loss', 0))


def _scores_one_by_one(model: nn.Module, heads: set[str]) -> bool:
    """Whether some loss of a head takes every class's sigmoid."""
    inside = itertools.chain.from_iterable(
        child.modules() for name, child in model.named_children() if name in heads
    )
    return any(
        getattr(module, 'use_sigmoid', False) is True
        or not _ONE_BY_ONE.isdisjoint(kind.__name__ for kind in type(module).__mro__)
        for module in inside
    )


def _tensors(value: Any, index: tuple[int, ...] = ()) -> tuple[list[Given], bool]:
    """Floating tensors of a nested output, and whether it is made of nothing else."""
    if isinstance(value, Tensor):
        floating = value.is_floating_point()
        return ([Given(tuple(value.shape), index)] if floating else []), floating
    if not isinstance(value, (tuple, list)):
        return [], value is None
    parts = [_tensors(item, (*index, i)) for i, item in enumerate(value)]
    return [g for given, _ in parts for g in given], all(whole for _, whole in parts)
