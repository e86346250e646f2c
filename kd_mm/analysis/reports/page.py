"""The page: one HTML file that needs nothing else."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment

from ...errors import ConfigError
from .plots import curves, picture, pictures
from .runs import Run
from .verdict import left_out, paired, verdict

TEMPLATE = Path(__file__).with_name('page.html')


def page(
    runs: Sequence[Run],
    *,
    title: str = 'Distillation',
    metric: str | None = None,
    teacher: Mapping[str, float] | None = None,
    more: Sequence[Path] = (),
) -> str:
    """Report on runs.

    Args:
        runs (Sequence[Run]): Of the student alone and distilled; those of one name
            are seeds of one thing. Of several plain ones the first is the student.
        title (str): Of the page. Defaults to 'Distillation'.
        metric (str, optional): Validation metric to compare. Defaults to None, the
            first that is better when higher.
        teacher (Mapping, optional): The teacher's metrics. Defaults to None, what the
            logs say (``teacher=dict(validate=True)``).
        more (Sequence[Path]): Pictures to show in front of those that runs have drawn.

    Returns:
        str: HTML.

    Raises:
        ConfigError: If the runs have no such metric.
    """
    metric = metric or next((m for run in runs for m in run.metrics), None)
    if metric is None or not any(metric in run.metrics for run in runs):
        there = ', '.join(dict.fromkeys(m for run in runs for m in run.metrics))
        raise ConfigError(f'the runs have no metric {metric}; there are: {there}')
    known = teacher or next((run.teacher for run in runs if run.teacher), {})
    level = known.get(metric, math.nan)
    differences = paired(runs, metric)
    verdicts = [verdict(d, runs, metric, level) for d in differences]
    if not verdicts:
        verdicts = ['No distilled run among these.']
    elif text := left_out(runs):
        verdicts.append(text)
    rows = _rows(runs, metric, level, {d.name: str(d) for d in differences})
    memory = ['MB'] if any(row[-1] for row in rows) else []  # of an accelerator
    rows = rows if memory else [row[:-1] for row in rows]
    shown = {str(path.with_suffix('')): path for path in more} | pictures(runs)
    return (
        Environment(autoescape=True, trim_blocks=True)
        .from_string(TEMPLATE.read_text())
        .render(
            title=title,
            verdicts=verdicts,
            heads=('', 'seeds', metric, 'difference', 's per step', *memory),
            rows=rows,
            curves=curves(runs, metric, level),
            pictures={name: picture(path) for name, path in shown.items()},
            said=[(run.name, text) for run in runs for text in run.said],
            runs=runs,
        )
    )


def _rows(
    runs: Sequence[Run], metric: str, teacher: float, differences: Mapping[str, str]
) -> list[list[str]]:
    rows = []
    for name in dict.fromkeys(run.name for run in runs):
        own = [run for run in runs if run.name == name]
        values = [run.last(metric) for run in own]
        values = [value for value in values if not math.isnan(value)]
        text = f'{statistics.mean(values):.4g}' if values else 'not reached'
        if len(values) > 1:
            text += f' ± {statistics.stdev(values):.2g}'
        seconds = statistics.median(run.seconds for run in own)
        memory = max(run.memory for run in own)
        rows.append(
            [
                name,
                str(len(own)),
                text,
                differences.get(name, ''),
                _text(seconds, '.3g'),
                _text(memory, '.0f'),
            ]
        )
    if not math.isnan(teacher):
        rows.append(['teacher', '', f'{teacher:.4g}', '', '', ''])
    return rows


def _text(value: float, form: str) -> str:
    return '' if math.isnan(value) else format(value, form)
