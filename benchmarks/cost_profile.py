#!/usr/bin/env python
"""Where the time of a distilled step goes beyond student and teacher.

    python benchmarks/cost_profile.py                 # the configs that cost most
    python benchmarks/cost_profile.py configs/kd/my.py

Self time of operators on the host, by kind, in the plain step plus the teacher's
forward pass, and in the distilled step; and how many floating-point operations each
kind has. `expected` is the time that the additional operations would take at the rate
of the plain step.
"""

import argparse
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cost import CIFAR, COCO, DIGITS, IMAGENET, ROOT, wanted
from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table
from steps import Bench, count_flops, random_batch, store
from tables import refresh
from torch.profiler import ProfilerActivity, profile

DEFAULT = (
    *(pattern.format('dpk') for pattern in (DIGITS, COCO, CIFAR, IMAGENET)),
    DIGITS.format('sokd_stable'),
    CIFAR.format('sokd'),
)
KINDS = {  # the first that matches
    'convolution': 'conv',
    'attention': 'scaled_dot|bmm',
    'matrix product': r'[:.](add)?mm$',
    'normalisation': 'norm',
    'activation': 'gelu|relu|threshold|clamp_min|softplus|sigmoid|softmax',
}
STEPS = 5


def kind(operator: str) -> str:
    """What an operator belongs to."""
    found = (name for name, key in KINDS.items() if re.search(key, operator))
    return next(found, 'else')


def milliseconds(run: Callable[[], object]) -> Counter:
    """Self time of every kind in one step."""
    for _ in range(2):
        run()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(STEPS):
            run()
    spent: Counter = Counter()
    for event in seen.key_averages():
        spent[kind(event.key)] += event.self_cpu_time_total / 1000 / STEPS
        if event.key.startswith('Optimizer.step'):  # its additions are nobody else's
            update = event.cpu_time_total / 1000 / STEPS
            spent['optimiser'] += update
            spent['else'] -= update
    return spent


def giga(run: Callable[[], object]) -> Counter:
    """1e9 floating-point operations of every kind."""
    found: Counter = Counter()
    for operator, number in count_flops(run).items():
        found[kind(str(operator))] += number / 1e9
    return found


def report(path: Path) -> list[dict]:
    """One row for every kind, and one for all."""
    args = argparse.Namespace(batch_size=None, size=None, device='cpu')
    batch, size = wanted(path, args)
    data = random_batch(batch, size, 'cpu')
    bench = Bench(Config.fromfile(path), data=data, device='cpu')
    variants = bench.variants()
    student, teacher, distilled = (
        (milliseconds(variants[n]), giga(variants[n]))
        for n in ('student', 'teacher', 'distilled')
    )
    plain = student[0] + teacher[0]
    work = student[1] + teacher[1]
    rate = work.total() / plain.total()
    rows = []
    for name in (*KINDS, 'optimiser', 'else', 'all'):

        def of(found: Counter, name: str = name) -> float:
            return found.total() if name == 'all' else found[name]

        more = of(distilled[1]) - of(work)
        rows.append(
            dict(
                config=path.stem,
                kind=name,
                student_and_teacher_ms=round(of(plain), 1),
                distilled_ms=round(of(distilled[0]), 1),
                more_ms=round(of(distilled[0]) - of(plain), 1),
                more_GFLOP=round(more, 2),
                expected_ms=round(more / rate, 1),
            )
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('configs', nargs='*', default=DEFAULT)
    args = parser.parse_args()
    MMLogger.get_instance('cost_profile', log_level='WARNING')
    result = ROOT / 'benchmarks/results/cost_profile.json'
    for name in args.configs:
        path = ROOT / name
        own = report(path)
        store(result, path.stem, own)
        table = Table(*own[0], title=path.stem)
        for row in own:
            table.add_row(*map(str, row.values()))
        Console().print(table)
    refresh()


if __name__ == '__main__':
    main()
