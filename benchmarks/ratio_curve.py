#!/usr/bin/env python
"""Draw how DPK's ratio falls while a student trains.

    python benchmarks/ratio_curve.py docs/images/dpk_ratio.png \
        work_dirs/a/*/vis_data/scalars.json work_dirs/b/*/vis_data/scalars.json

One panel a run, one line a level, from what MMEngine's logger wrote.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402  needs the backend


def read(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and ratios by level."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        for key, value in row.items():
            if key.startswith('kd_') and '_ratio_' in key:
                steps, values = curves.setdefault(key.rsplit('_', 1)[1], ([], []))
                steps.append(row['step'])
                values.append(value)
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path)
    parser.add_argument('scalars', type=Path, nargs='+')
    args = parser.parse_args()
    count = len(args.scalars)
    figure, axes = plt.subplots(
        1, count, figsize=(5 * count, 3.6), layout='constrained', squeeze=False
    )
    for axis, path in zip(axes[0], args.scalars, strict=True):
        for level, (steps, values) in sorted(read(path).items()):
            axis.plot(steps, values, label=f'level {level}')
            print(f'{path}: level {level}: {values[0]:.3f} ... {values[-1]:.3f}')
        name = path.resolve().parents[2].name
        axis.set(title=name, xlabel='iteration', ylabel='ratio, 1 - CKA', ylim=(0, 1))
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(args.out, dpi=110)


if __name__ == '__main__':
    main()
