"""Curves and pictures as text for a page that needs no other file."""

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path

from .runs import Run

COLOURS = ('#4477aa', '#ee6677', '#228833', '#ccbb44', '#66ccee', '#aa3377')
OWN = ('gradient_share', 'ratio', 'cka', 'policy', 'area', 'weight', 'heat')
KINDS = dict(png='png', jpg='jpeg', jpeg='jpeg', svg='svg+xml')


def curves(runs: Sequence[Run], metric: str, teacher: float) -> dict[str, str]:
    """Inline SVG by title.

    Args:
        runs (Sequence[Run]): All runs; those of one name have one colour.
        metric (str): The validation metric.
        teacher (float): A line in the first plot; nan: none.
    """
    found = {metric: _plot(runs, lambda run: [run.curve(metric)], teacher)}
    found['task loss'] = _plot(runs, lambda run: [run.task_loss()])
    for key in _keys(runs, 'loss_kd_'):
        found[key] = _plot(runs, lambda run, key=key: [run.curve(key)])
    groups: dict[str, list[str]] = {}
    for key in _keys(runs, 'kd_'):
        kind = next((word for word in OWN if word in key), None)
        if kind:
            groups.setdefault(re.sub(r'_\d+$', '', key), []).append(key)
    for title, keys in groups.items():
        found[title] = _plot(
            runs, lambda run, keys=keys: [run.curve(key) for key in keys]
        )
    return {title: svg for title, svg in found.items() if svg}


def _keys(runs: Sequence[Run], start: str) -> list[str]:
    return list(dict.fromkeys(key for run in runs for key in run.keys(start)))


def _plot(runs, lines_of, level: float = float('nan')) -> str:
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(run.name for run in runs))
    figure, axis = plt.subplots(figsize=(5, 3), layout='constrained')
    empty = True
    for run in runs:
        index = names.index(run.name)
        for xs, ys in lines_of(run):
            if not xs:
                continue
            empty = False
            (line,) = axis.plot(
                xs,
                ys,
                color=COLOURS[index % len(COLOURS)],
                marker='o' if len(xs) < 20 else None,
                markersize=4,
                lw=1.5,
            )
            known = axis.get_legend_handles_labels()[1]
            line.set_label('_' if run.name in known else run.name)
    if empty:
        plt.close(figure)
        return ''
    if level == level:
        axis.axhline(level, color='grey', ls='--', label='teacher')
    axis.set_xlabel(_unit(runs, lines_of))
    axis.ticklabel_format(useOffset=False)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    file = io.StringIO()
    with plt.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'kd_mm'}):
        figure.savefig(file, format='svg', metadata=dict(Date=None))
    plt.close(figure)
    return _responsive(file.getvalue())


def _unit(runs, lines_of) -> str:
    """What MMEngine counts: an epoch-based loop validates by epochs."""
    last = max((xs[-1] for run in runs for xs, _ in lines_of(run) if xs), default=0)
    whole = max((run.steps[-1]['step'] for run in runs if run.steps), default=0)
    return 'epoch' if last < whole / 2 else 'iteration'


def _responsive(svg: str) -> str:
    """Without a prologue, as wide as the page lets it."""
    svg = svg[svg.index('<svg') :]
    return re.sub(r' (width|height)="[\d.]+pt"', '', svg, count=2)


def picture(path: Path) -> str:
    """An image as a data URL."""
    kind = KINDS[path.suffix.lower().lstrip('.')]
    data = base64.b64encode(path.read_bytes()).decode()
    return f'data:image/{kind};base64,{data}'


def pictures(runs: Sequence[Run], most: int = 6) -> dict[str, Path]:
    """The newest pictures that runs have drawn of themselves, by run and name."""
    found = [
        (f'{run.folder}: {path.stem}', path)
        for run in runs
        for path in run.folder.glob('*/vis_data/vis_image/*')
        if path.suffix.lower().lstrip('.') in KINDS
    ]
    found.sort(key=lambda item: item[1].stat().st_mtime)
    return dict(found[-most:])
