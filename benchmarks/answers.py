#!/usr/bin/env python
"""Draws docs/images/answers.png: what each question of answers.json came to.

Again when rows have come:

    python benchmarks/answers.py
"""

import statistics
import textwrap

import matplotlib
from matplotlib import pyplot as plt
from tables import RESULTS, ROOT, answered

matplotlib.use('Agg')


def main() -> None:
    names, means, errors = [], [], []
    for asked, found in answered(RESULTS):
        if len(found) > 1:
            lines = textwrap.wrap(asked['asks'], 48)
            names.append('\n'.join([*lines, f'{asked["method"]} - {asked["beside"]}']))
            means.append(statistics.mean(found))
            errors.append(3 * statistics.stdev(found) / len(found) ** 0.5)
    figure, axes = plt.subplots(
        figsize=(9, 0.8 + 0.55 * len(names)), layout='constrained'
    )
    axes.axvline(0, color='0.6', linewidth=1)
    lines = range(len(names))
    axes.errorbar(means, lines, xerr=errors, fmt='o', color='tab:blue', capsize=3)
    axes.set_yticks(lines, names)
    axes.set_xlabel('points of mAP or top-1, ± three standard errors')
    axes.margins(y=0.02)
    axes.invert_yaxis()
    axes.grid(axis='x', alpha=0.3)
    figure.savefig(ROOT / 'docs/images/answers.png', dpi=110)


if __name__ == '__main__':
    main()
