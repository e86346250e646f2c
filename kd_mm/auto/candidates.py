"""Where a network could be tapped: what feeds its heads, and its class scores."""

from dataclasses import dataclass

import torch

from ..errors import ConfigError
from ..pair import MAP, TOKENS, VECTOR
from ..preprocess import crop
from ..sizes import Size
from ..stages.tokens_to_map import EXTRA, learn_grid, size_of
from ..taps import Tap
from ..trial import IMAGES
from ..utils.strides import stride_of
from .survey import Given, Point, Survey


@dataclass(frozen=True)
class Level:
    """One tensor of a candidate.

    Attributes:
        form (str): One of :data:`kd_mm.pair.LAYOUTS`.
        shape (tuple[int, ...]): As the network gives it.
        stride (float): Pixels between two positions; 0 where tokens are no grid.
        size (tuple[int, int]): Height and width over the student's batch, as a map;
            ``(0, 0)`` where tokens are no grid.
    """

    form: str
    shape: tuple[int, ...]
    stride: float
    size: Size

    @property
    def width(self) -> int:
        """Number of channels."""
        return self.shape[2 if self.form == TOKENS else 1]


@dataclass(frozen=True)
class Candidate:
    """A place to tap.

    Attributes:
        specs (tuple[str, ...]): Taps, as a link writes them; one for all levels where
            the module gives nothing else, or one for each.
        levels (tuple[Level, ...]): What they give, in order.
    """

    specs: tuple[str, ...]
    levels: tuple[Level, ...]

    def describe(self) -> str:
        """Path, shapes and strides, for messages."""
        parts = (
            f'{level.shape}' + (f' stride {level.stride:g}' if level.stride else '')
            for level in self.levels
        )
        return f'{" ".join(self.specs)}: {", ".join(parts)}'


def feeding_heads(survey: Survey) -> list[Candidate]:
    """Candidates from the last in front of the heads backwards.

    A child of the network that gives vectors (a backbone that pools) stands for the
    last module inside it that gives positions. A child that is a single layer comes
    last: it may stand beside the way to the heads (DINO's, for proposals).
    """
    found: dict[tuple[str, ...], Candidate] = {}
    children = [p for p in survey.points.values() if '.' not in p.path]
    for child in sorted(reversed(children), key=lambda point: point.leaf):
        if child.path in survey.heads or not _usable(child, survey):
            continue
        own = _candidate(child, survey)
        on_grid = own and any(level.stride for level in own.levels)
        for candidate in (own, None if on_grid else _last_inside(child, survey)):
            if candidate is not None:
                found.setdefault(candidate.specs, candidate)
    return list(found.values())


def stages_of(survey: Survey, last: Candidate) -> Candidate:
    """Up to three maps inside the child that gives ``last``: of each stride the last.

    What a link of several maps compares on a classifier, whose head takes the last
    alone. Of several modules that give maps of one stride the outermost counts.
    """
    child = Tap.parse(last.specs[-1]).path.split('.')[0]
    by_stride: dict[float, Candidate] = {}
    inside = sorted(_inside(child, survey), key=lambda p: -p.path.count('.'))
    for point in inside:
        candidate = _candidate(point, survey)
        if candidate is not None and candidate.levels[0].form == MAP:
            by_stride[candidate.levels[0].stride] = candidate
    end = last.levels[-1]
    finer = [by_stride[stride] for stride in sorted(by_stride) if stride < end.stride]
    if end.form == MAP and end.stride in by_stride and finer:
        places = [*finer[-2:], by_stride[end.stride]]
        specs = tuple(place.specs[0] for place in places)
        return Candidate(specs, tuple(place.levels[0] for place in places))
    return last


def class_scores(survey: Survey) -> Candidate | None:
    """The last layer of a head that gives one vector an image.

    Or the last layer in front of heads that have none (networks whose backbone scores).
    """
    leaves = [p for p in survey.points.values() if p.leaf and p.given]
    inside = [p for p in leaves if p.path.split('.')[0] in survey.heads]
    before = [p for p in leaves if p not in inside]
    scoring = [p for p in inside if _is_vector(p)] or before[-1:]
    if not scoring or not _is_vector(scoring[-1]) or not _ok(scoring[-1], survey):
        return None
    point = scoring[-1]
    level = Level(VECTOR, point.shapes[0], 0, (0, 0))
    return Candidate((point.path,), (level,))


def _is_vector(point: Point) -> bool:
    return point.whole and len(point.given) == 1 and len(point.shapes[0]) == 2


def _ok(point: Point, survey: Survey) -> bool:
    if survey.owner == 'student' and not point.learns:
        return False
    return point.calls == 1 and all(shape[:1] == (IMAGES,) for shape in point.shapes)


def _usable(point: Point, survey: Survey) -> bool:
    """Fed with features, once: no encoding of positions, nothing shared by levels."""
    learns = point.learns or survey.owner == 'teacher'
    return bool(point.given) and point.fed and point.calls == 1 and learns


def _inside(child: str, survey: Survey) -> list[Point]:
    return [
        point
        for point in survey.points.values()
        if point.path.startswith(f'{child}.')
        and _usable(point, survey)
        and len(point.given) == 1
    ]


def _last_inside(child: Point, survey: Survey) -> Candidate | None:
    """The last grid inside a child that has none itself.

    Not from inside of a module that ends without one: a stage that shrinks its map to
    a single cell is no place to look for larger ones.
    """
    for point in reversed(_inside(child.path, survey)):
        candidate = _candidate(point, survey)
        if not candidate or not candidate.levels[0].stride:
            continue
        parts = point.path.split('.')
        around = ('.'.join(parts[:i]) for i in range(2, len(parts)))
        ended = [survey.points[path] for path in around if path in survey.points]
        if all(_candidate(p, survey) for p in ended if p.given):
            return candidate
    return None


def _candidate(point: Point, survey: Survey) -> Candidate | None:
    """A module as a place to tap; None where nothing it gives has positions."""
    kept: list[tuple[Given, Level]] = []
    for given in point.given:
        before = kept[-1][1].stride if kept else 0
        if level := _level(given.shape, survey, before):
            kept.append((given, level))
    if not any(max(level.size) > 1 or level.form == TOKENS for _, level in kept):
        return None
    levels = tuple(level for _, level in kept)
    if point.whole and len(kept) == len(point.given):
        return Candidate((point.path,), levels)
    specs = tuple(str(Tap(point.path, given.index)) for given, _ in kept)
    return Candidate(specs, levels)


def _level(shape: tuple[int, ...], survey: Survey, before: float) -> Level | None:
    """A tensor as a level behind one of stride ``before``, if it has positions."""
    image, batch = survey.image_size, survey.batch_size
    if len(shape) not in (3, 4) or shape[0] != IMAGES:
        return None
    if len(shape) == 3:
        return _tokens(shape, image, batch) if min(shape[1:]) > 1 else None
    seen = torch.empty(shape, device='meta')
    if image != batch:
        seen = crop(seen, padded=image, size=batch)
    stride = stride_of(tuple(shape[2:]), image, before)
    return Level(MAP, shape, stride, (seen.shape[2], seen.shape[3]))


def _tokens(shape: tuple[int, ...], image: Size, batch: Size) -> Level:
    """Tokens, on their grid where they have one."""
    try:
        grid = learn_grid(shape[1], image, range(EXTRA + 1))
    except ConfigError:
        return Level(TOKENS, shape, 0, (0, 0))
    *_, stride = size_of(shape[1] - grid.extra, image, grid.strides)
    size = (-(-batch[0] // stride), -(-batch[1] // stride))
    return Level(TOKENS, shape, stride, size)
