#!/usr/bin/env python
"""Draws a metric against a setting of a suite: a line a method, a dot a seed.

    python benchmarks/setting_curve.py digits_few images docs/images/few_labels.png
    python benchmarks/setting_curve.py digits epochs epochs.png --methods alone FitNet

Lines go through the means of what was run at each value.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from tables import RESULTS

matplotlib.use('Agg')


def points(rows: list[dict], setting: str, metric: str) -> dict[str, np.ndarray]:
    """``(rows, 2)`` of setting and metric by method, sorted by the setting."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if metric in row:
            found.setdefault(row['method'], []).append((row[setting], row[metric]))
    return {method: np.array(sorted(pairs)) for method, pairs in found.items()}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('result', help='a file of benchmarks/results, without .json')
    parser.add_argument('setting', help='a number in its rows, e.g. images')
    parser.add_argument('out', type=Path)
    parser.add_argument('--metric', default='mAP')
    parser.add_argument('--methods', nargs='+', help='default: all')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    rows = json.loads((RESULTS / f'{args.result}.json').read_text())
    curves = points(rows, args.setting, args.metric)
    figure, axes = plt.subplots(figsize=(6, 3.8), layout='constrained')
    for method in args.methods or curves:
        x, y = curves[method].T
        values = np.unique(x)
        means = [y[x == value].mean() for value in values]
        (line,) = axes.plot(values, means, label=method)
        axes.plot(x, y, 'o', markersize=4, alpha=0.6, color=line.get_color())
    axes.set(xscale='log', xlabel=args.setting, ylabel=args.metric)
    axes.set_xticks(values, [f'{value:g}' for value in values])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(args.out, dpi=110)


if __name__ == '__main__':
    main()
