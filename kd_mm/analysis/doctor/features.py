"""What the taps give: alive, of one size, and how alike on both sides."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ...link import Link
from ...pair import MAP, FeaturePair, channels_first, layout, positions
from ...stages.dpk.cka import cka
from ...stages.dpk.dpk import GRID
from ...unaugmented import feature_pairs, undisturbed
from ..report import LevelReport, measure
from .finding import Finding, fine, look, wrong
from .patient import Patient

DEAD = 0.5  # share of a level's channels
SAMPLES = 128  # images that CKA compares
MENDABLE = 0.1  # what an order of channels has to add to their correlation


@dataclass
class Seen:
    """One level of one side over all batches.

    Attributes:
        shape (tuple[int, ...]): Of the first batch.
        size (tuple[int, int]): Height and width of that batch's images.
        count (int): Values per channel.
        sums, squares (Tensor): Per channel, ``(C,)``.
        largest (float): Magnitude.
        finite (bool): Whether all values were.
        grids (list[Tensor]): ``(N, ...)`` averaged to 8 x 8 cells.
    """

    shape: tuple[int, ...]
    size: tuple[int, int]
    count: int = 0
    sums: Tensor = field(default_factory=lambda: torch.zeros(1))
    squares: Tensor = field(default_factory=lambda: torch.zeros(1))
    largest: float = 0.0
    finite: bool = True
    grids: list[Tensor] = field(default_factory=list)

    def add(self, feature: Tensor) -> None:
        """Take in one batch."""
        rows = channels_first(feature).transpose(0, 1).flatten(1).double()
        self.count += rows.shape[1]
        self.sums = self.sums.to(rows) + rows.sum(1)
        self.squares = self.squares.to(rows) + rows.square().sum(1)
        self.largest = max(self.largest, float(rows.abs().max()))
        self.finite = self.finite and bool(rows.isfinite().all())
        if sum(map(len, self.grids)) < SAMPLES:
            grid = feature.float()
            if layout(feature) == MAP:
                grid = F.adaptive_avg_pool2d(grid, GRID)
            self.grids.append(grid.flatten(1).cpu())

    @property
    def spread(self) -> Tensor:
        """Standard deviation of every channel."""
        mean = self.sums / self.count
        return (self.squares / self.count - mean.square()).clamp(min=0).sqrt()

    @property
    def constant(self) -> bool:
        """Whether all images look alike here."""
        grid = torch.cat(self.grids)
        return bool((grid - grid[:1]).abs().max() <= 1e-6 * (self.largest + 1e-12))

    @property
    def stride(self) -> float:
        """Pixels per cell along the longer side; 0 where there are no cells."""
        cells = positions(torch.empty(self.shape, device='meta'))
        return max(self.size) / max(cells) if len(cells) == 2 else 0.0


Levels = dict[tuple[str, str], list[Seen]]  # by link and side


def gather(patient: Patient) -> Levels:
    """All taps of all links over the un-augmented images."""
    found: Levels = {}
    names = list(patient.links)
    with undisturbed(patient.model):
        for pairs in feature_pairs(
            patient.model, patient.plain, names, title='doctor: features'
        ):
            for name, pair in pairs.items():
                for side in ('student', 'teacher'):
                    _add(found.setdefault((name, side), []), pair, side)
    return found


def _add(levels: list[Seen], pair: FeaturePair, side: str) -> None:
    features = getattr(pair, side)
    if not levels:
        levels.extend(Seen(tuple(f.shape), pair.image_size) for f in features)
    for seen, feature in zip(levels, features, strict=True):
        seen.add(feature)


def features(patient: Patient) -> Iterator[Finding]:
    """Taps, sizes and likeness of every link."""
    found = gather(patient)
    moves = bool(patient.distiller.teachers.averages)  # it begins as the student
    for name in patient.links:
        student, teacher = found[name, 'student'], found[name, 'teacher']
        sides = dict(student=student, teacher=teacher[: len(student)])  # of the first
        yield _alive(name, sides, may_equal=moves)
        yield from _sizes(name, sides)
        yield _alike(name, sides)
    yield from _channels(patient)


def _alive(name: str, sides: dict[str, list[Seen]], *, may_equal: bool) -> Finding:
    check = f'{name}: taps'
    worst = ''
    for side, levels in sides.items():
        for i, seen in enumerate(levels):
            where = f'{side} level {i} {seen.shape[1:]}'
            if not seen.finite:
                return wrong(check, f'{where} has NaN or infinite values')
            if seen.constant:
                return wrong(
                    check,
                    f'{where} is the same for all images',
                    'the tapped module is dead (zero weights, saturated, wrong input)',
                )
            dead = float((seen.spread <= 1e-6 * (seen.largest + 1e-12)).float().mean())
            if dead > DEAD and not worst:
                worst = f'{where}: {dead:.0%} of the channels never change'
            twin = next((j for j in range(i) if _same(seen, levels[j])), None)
            if twin is not None:
                return wrong(
                    check,
                    f'{side} levels {twin} and {i} are the same tensor',
                    'name each level once in levels=...',
                )
    pairs = zip(sides['student'], sides['teacher'], strict=True)
    if not may_equal and any(_same(s, t) for s, t in pairs):
        text = 'student and teacher give the very same features'
        return wrong(check, text, 'is the teacher the student itself?')
    if worst:
        return look(check, worst, 'tap another module, or look at the network')
    count = len(sides['student'])
    return fine(
        check, f'{count} level{"s" * (count > 1)}, finite, changing, all different'
    )


def _same(a: Seen, b: Seen) -> bool:
    return a.shape == b.shape and torch.equal(a.grids[0], b.grids[0])


def _sizes(name: str, sides: dict[str, list[Seen]]) -> Iterator[Finding]:
    """Does a cell of both sides cover the same part of the image?"""
    check = f'{name}: strides'
    pairs = list(zip(sides['student'], sides['teacher'], strict=True))
    strides = [(s.stride, t.stride) for s, t in pairs]
    if not any(a and b for a, b in strides):
        return
    text = ', '.join(
        f'{a:.3g}' if a == b else f'{a:.3g} <- {b:.3g}' for a, b in strides
    )
    off = [i for i, (a, b) in enumerate(strides) if a and b and not 0.9 < a / b < 1.1]
    if not off:
        yield fine(check, text)
        return
    theirs = [t.stride for t in sides['teacher']]
    fitting = [
        i for i in off if any(0.9 < strides[i][0] / b < 1.1 for b in theirs if b)
    ]
    verdict = wrong if fitting else look
    yield verdict(
        check,
        f'{text}: cells of level {off[0]} cover other parts of the image',
        'pair levels of one stride: levels=dict(student=[...], teacher=[...])',
    )


def _alike(name: str, sides: dict[str, list[Seen]]) -> Finding:
    """CKA of every level, for comparison over time and between teachers."""
    check = f'{name}: CKA'
    values = []
    for s, t in zip(sides['student'], sides['teacher'], strict=True):
        a, b = torch.cat(s.grids).double(), torch.cat(t.grids).double()
        values.append(float(cka(a, b)) if len(a) >= 4 else float('nan'))
    text = 'student and teacher by level ' + ', '.join(f'{v:.2f}' for v in values)
    if all(v < 0.02 for v in values):
        return look(
            check,
            f'{text}: they have nothing in common',
            'do both see the same images, and is the teacher trained?',
        )
    return fine(check, text)


def _channels(patient: Patient) -> Iterator[Finding]:
    """Is there an order of channels to mend (KCD)?"""
    check = 'channel order'
    if not patient.student_trained:
        yield fine(check, 'the student is untrained: any order is as good for it')
        return
    if len(patient.plain) < 2:
        return
    for report in measure(patient.model, patient.plain):
        if report.level:
            continue
        yield _order(report, patient.links[report.link])


def _order(report: LevelReport, link: Link) -> Finding:
    name = f'{report.link}: channel order'
    now = report.transforms['identity']['correlation']
    best = max(report.transforms, key=lambda k: report.transforms[k]['correlation'])
    after = report.transforms[best]['correlation']
    text = (
        f'matched channels correlate {now:.2f} as they stand, {after:.2f} at best '
        f'({best})'
    )
    mixes = any(getattr(stage, 'mixes_channels', False) for stage in link.stages)
    moves = any(getattr(stage, 'moves_channels', False) for stage in link.stages)
    if after - now > MENDABLE and not (mixes or moves):
        return fine(name, f'{text}: kd_mm.ChannelAlign has something to mend')
    return fine(name, text)
