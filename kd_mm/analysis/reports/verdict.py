"""What runs say about a distillation, in words; it may be "no gain"."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t

from ...utils.metrics import better_when_higher
from .runs import Run


@dataclass(frozen=True)
class Difference:
    """Distilled less alone, seed by seed, or of the means where there are no seeds.

    Attributes:
        name (str): Of the distilled runs.
        gains (list[float]): One for every seed that both have; or the distilled runs'
            values.
        alone (list[float], optional): The values of those alone, where runs have no
            seed or several have one. Defaults to None: they are paired.
        unit (float): What the values are rounded to. Defaults to 0.
    """

    name: str
    gains: list[float]
    alone: list[float] | None = None
    unit: float = 0.0

    @property
    def _sides(self) -> list[list[float]]:
        return [self.gains] if self.alone is None else [self.gains, self.alone]

    @property
    def mean(self) -> float:
        """Of the gains."""
        if not self.gains or self.alone == []:
            return math.nan
        return statistics.mean(self.gains) - statistics.mean(self.alone or [0.0])

    @property
    def error(self) -> float:
        """Standard error of the mean; nan for fewer than two seeds."""
        if min(map(len, self._sides)) < 2:
            return math.nan
        return math.sqrt(
            # two roundings are between two values, whatever these say
            sum(
                max(statistics.variance(side), self.unit**2 / 6) / len(side)
                for side in self._sides
            )
        )

    @property
    def bound(self) -> float:
        """What chance alone exceeds once in twenty: Student's t times the error."""
        free = min(map(len, self._sides)) - 1  # Welch's are no fewer
        return float(t.ppf(0.975, free)) * self.error if free > 0 else math.nan

    @property
    def count(self) -> str:
        """How many runs it is made of."""
        if self.alone is None:
            return f'{len(self.gains)} seeds'
        return f'{len(self.gains)} and {len(self.alone)} runs, unpaired'

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return 'no seed in common'
        if math.isnan(self.error):
            one = 'one seed' if self.alone is None else self.count
            return f'{self.mean:+.4g} ({one})'
        return f'{self.mean:+.4g} ± {self.error:.2g} ({self.count})'


def alone(runs: Sequence[Run]) -> list[Run]:
    """The student alone: of the plain runs those of the first name that was given.

    What comes under another name (the teacher's own training, another student) is not
    it. Runs without a name are one group, whatever their folders are called.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if not run.distilled:
            groups.setdefault(run.name if run.named else '', []).append(run)
    return next(iter(groups.values()), [])


def left_out(runs: Sequence[Run]) -> str:
    """One sentence on plain runs that nothing is compared with; '' for none."""
    base = alone(runs)
    others = [run for run in runs if not run.distilled and run not in base]
    if not others:
        return ''
    names, rest = (
        ', '.join(dict.fromkeys(run.name for run in side)) for side in (base, others)
    )
    return (
        f'The student alone: {names}, the first that is not distilled. Shown, and '
        f'compared with nothing: {rest}.'
    )


def paired(runs: Sequence[Run], metric: str) -> list[Difference]:
    """Every kind of distilled run against those alone."""
    done = [run for run in runs if not math.isnan(run.last(metric))]
    unit = min((_rounding(run.last(metric)) for run in done), default=0.0)
    base = [run for run in alone(runs) if not math.isnan(run.last(metric))]
    level = {run.seed: run.last(metric) for run in base}
    found = []
    for name in dict.fromkeys(run.name for run in runs if run.distilled):
        own = _distilled(name, done)
        if _told_apart(base) and _told_apart(own):
            gains = [r.last(metric) - level[r.seed] for r in own if r.seed in level]
            found.append(Difference(name, gains, unit=unit))
        else:
            values, others = (
                [run.last(metric) for run in side] for side in (own, base)
            )
            found.append(Difference(name, values, others, unit))
    return found


def _told_apart(runs: Sequence[Run]) -> bool:
    """Whether each has a seed of its own."""
    seeds = [run.seed for run in runs]
    return None not in seeds and len({*seeds}) == len(seeds)


def _rounding(value: float) -> float:
    """What a logged value was rounded to: COCO's mAP to 0.001."""
    decimals = repr(value).partition('.')[2]
    return 10.0 ** -len(decimals) if decimals.isdigit() else 0.0


def verdict(
    difference: Difference, runs: Sequence[Run], metric: str, teacher: float
) -> str:
    """One or two sentences on one kind of distilled run.

    Args:
        difference (Difference): Of :func:`paired`.
        runs (Sequence[Run]): All runs.
        metric (str): What was compared.
        teacher (float): The teacher's; nan where unknown.
    """
    name, mean, error = difference.name, difference.mean, difference.error
    if budgets := _budgets(name, runs):
        return f'{name}: {budgets}, so the difference ({difference}) says nothing yet.'
    if math.isnan(mean):
        return (
            f'{name}: nothing to compare with. Train the student alone with the same '
            'seeds (randomness.seed), data and epochs.'
        )
    if not better_when_higher(metric):
        return (
            f'{name}: {difference} {metric}. Whether that is a gain depends on the '
            'metric: by its name it is none that is known to be better when higher.'
        )
    if math.isnan(error):
        word = 'better' if mean > 0 else 'not better'
        one = 'one seed' if difference.alone is None else difference.count
        text = (
            f'{name}: {word} than the student alone by {mean:+.4g} {metric} on {one}. '
            'Another seed may say otherwise: run three or more before believing '
            'it.'
        )
        return text if mean > 0 else f'{text} {likeliest(name, runs, metric, teacher)}'
    spread = f'{mean:+.4g} ± {error:.2g} {metric} over {difference.count}'
    if mean > difference.bound:
        return f'{name}: a gain, {spread}.'
    reason = likeliest(name, runs, metric, teacher)
    if mean < -difference.bound:
        return f'{name}: worse than the student alone, {spread}. {reason}'
    return f'{name}: no gain that these seeds can show, {spread}. {reason}'


def _budgets(name: str, runs: Sequence[Run]) -> str:
    """What is said of runs that were trained for other lengths; '' for equal ones."""
    own, base = (
        {run.steps[-1]['step'] for run in side if run.steps}
        for side in (_distilled(name, runs), alone(runs))
    )
    if not base or own == base:
        return ''
    return f'trained to step {_listed(own)}, the student alone to {_listed(base)}'


def _distilled(name: str, runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.distilled and run.name == name]


def _listed(numbers: set) -> str:
    return ' and '.join(str(number) for number in sorted(numbers))


def likeliest(name: str, runs: Sequence[Run], metric: str, teacher: float) -> str:
    """Why a distillation did not help: the first of the usual reasons that holds."""
    own, base = _distilled(name, runs), alone(runs)
    student = statistics.mean([run.last(metric) for run in base] or [math.nan])
    if teacher <= student:
        return (
            f'Likeliest reason: the teacher is not better ({teacher:.4g}, the student '
            f'alone {student:.4g}).'
        )
    if said := next((text for run in own for text in run.said), ''):
        return f'Likeliest reason, from the log: {said}.'
    for key in dict.fromkeys(k for r in own for k in r.keys('kd_', '_gradient_share')):
        values = [v for run in own for v in run.curve(key)[1]]
        middle = statistics.median(values) if values else math.nan
        link = key.removeprefix('kd_').removesuffix('_gradient_share')
        if middle < 0.05:
            return (
                f'Likeliest reason: {link} has {middle:.3f} of the gradient and does '
                'next to nothing; raise its weight, or give share=0.5.'
            )
        if middle > 0.95:
            return (
                f'Likeliest reason: {link} has {middle:.3f} of the gradient and drowns '
                'the task; lower its weight, or give share=0.5.'
            )
    for key in dict.fromkeys(k for r in own for k in r.keys('loss_kd_')):
        values = own[0].curve(key)[1]
        tenth = max(1, len(values) // 10)
        # of the first half the highest: a schedule lets it rise first
        sums = [sum(values[i : i + tenth]) for i in range(0, len(values) // 2, tenth)]
        if sums and sum(values[-tenth:]) >= 0.98 * max(sums):
            return f'Likeliest reason: {key} did not fall; ask python -m kd_mm doctor.'
    if any(_rising(run.curve(metric)[1]) for run in [*own, *base]):
        return (
            'Likeliest reason: training was too short, the metric still rises at the '
            'end.'
        )
    if math.isnan(teacher):
        return (
            'Is the teacher better than the student? Its metric is not known here: '
            'teacher=dict(validate=True), or --teacher.'
        )
    return 'None of the usual reasons holds; try another weight, link or teacher.'


def _rising(values: list[float]) -> bool:
    """Whether the last quarter of a course brought more than a tenth of its rise."""
    if len(values) < 4:
        return False
    before = max(values[: -max(1, len(values) // 4)])
    whole = max(values) - values[0]
    return whole > 0 and max(values) - before > 0.1 * whole
