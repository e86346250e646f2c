"""What runs say about a distillation, in words; it may be "no gain"."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .runs import Run


@dataclass(frozen=True)
class Difference:
    """Distilled less alone, seed by seed.

    Attributes:
        name (str): Of the distilled runs.
        gains (list[float]): One for every seed that both have.
    """

    name: str
    gains: list[float]

    @property
    def mean(self) -> float:
        """Of the gains."""
        return statistics.mean(self.gains) if self.gains else math.nan

    @property
    def error(self) -> float:
        """Standard error of the mean; nan for fewer than two seeds."""
        if len(self.gains) < 2:
            return math.nan
        return statistics.stdev(self.gains) / math.sqrt(len(self.gains))

    def __str__(self) -> str:
        if not self.gains:
            return 'no seed in common'
        if len(self.gains) == 1:
            return f'{self.mean:+.4g} (one seed)'
        return f'{self.mean:+.4g} ± {self.error:.2g} ({len(self.gains)} seeds)'


def paired(runs: Sequence[Run], metric: str) -> list[Difference]:
    """Every kind of distilled run against those alone."""
    alone = {run.seed: run.last(metric) for run in runs if not run.distilled}
    found = []
    for name in dict.fromkeys(run.name for run in runs if run.distilled):
        own = [run for run in runs if run.distilled and run.name == name]
        gains = [r.last(metric) - alone[r.seed] for r in own if r.seed in alone]
        found.append(Difference(name, [g for g in gains if not math.isnan(g)]))
    return found


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
    if not difference.gains:
        return (
            f'{name}: nothing to compare with. Train the student alone with the same '
            'seeds, data and epochs.'
        )
    if len(difference.gains) == 1:
        word = 'better' if mean > 0 else 'not better'
        text = (
            f'{name}: {word} than the student alone by {mean:+.4g} {metric} on one '
            'seed. Another seed may say otherwise: run three or more before believing '
            'it.'
        )
        return text if mean > 0 else f'{text} {likeliest(name, runs, metric, teacher)}'
    spread = f'{mean:+.4g} ± {error:.2g} {metric} over {len(difference.gains)} seeds'
    if mean > 2 * error:
        return f'{name}: a gain, {spread}.'
    reason = likeliest(name, runs, metric, teacher)
    if mean < -2 * error:
        return f'{name}: worse than the student alone, {spread}. {reason}'
    return f'{name}: no gain that these seeds can show, {spread}. {reason}'


def _budgets(name: str, runs: Sequence[Run]) -> str:
    """What is said of runs that were trained for other lengths; '' for equal ones."""
    own, alone = (
        {run.steps[-1]['step'] for run in runs if chosen(run) and run.steps}
        for chosen in (
            lambda run: run.distilled and run.name == name,
            lambda run: not run.distilled,
        )
    )
    if not alone or own == alone:
        return ''
    return f'trained to step {_listed(own)}, the student alone to {_listed(alone)}'


def _listed(numbers: set) -> str:
    return ' and '.join(str(number) for number in sorted(numbers))


def likeliest(name: str, runs: Sequence[Run], metric: str, teacher: float) -> str:
    """Why a distillation did not help: the first of the usual reasons that holds."""
    own = [run for run in runs if run.distilled and run.name == name]
    alone = [run for run in runs if not run.distilled]
    student = statistics.mean([run.last(metric) for run in alone] or [math.nan])
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
        first, last = values[:tenth], values[-tenth:]
        if values and sum(last) >= 0.98 * sum(first):
            return f'Likeliest reason: {key} did not fall; ask python -m kd_mm doctor.'
    if any(_rising(run.curve(metric)[1]) for run in [*own, *alone]):
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
