#!/usr/bin/env python
"""What distillation gains: methods of a suite, each with every seed, into one table.

    python benchmarks/gain.py                        # lists the suites
    python benchmarks/gain.py digits                 # detection on a CPU, hours
    python benchmarks/gain.py digits-cls --seeds 0 1 # classification on a CPU
    python benchmarks/gain.py digits --only alone FitNet --epochs 12

Runs of one seed start from the same weights and see the same batches, so methods are
compared seed by seed. A row that is in benchmarks/results/SUITE.json is not run again;
several processes may share a suite (each takes what is not there when it looks). A run
that fails leaves a row that says so. The tables of docs are refreshed at the end.
"""

import argparse
import fcntl
import json
import re
import statistics
import subprocess
import time
from pathlib import Path

import torch
from digits_runs import ROOT, mean_std
from rich.console import Console
from rich.table import Table
from suites import DETECTION, Suite
from suites_cifar100 import CIFAR100_SMALL
from suites_cls import CIFAR10, DIGITS_CLS
from suites_heads import HEADS
from suites_large import LARGE
from suites_persons import PERSONS, PERSONS_TRAINED
from suites_teachers import COCO_UNLABELLED, DIGITS_FEW, DIGITS_TEACHERS
from suites_trained import (
    CIFAR10_CUTMIX,
    CIFAR10_PUBLIC,
    CIFAR10_TRAINED,
    DIGITS_TRAINED,
)
from tables import refresh

RESULTS = ROOT / 'benchmarks/results'
ABOUT = (DIGITS_TEACHERS, DIGITS_FEW, COCO_UNLABELLED)
TRAINED = (DIGITS_TRAINED, CIFAR10_TRAINED, CIFAR10_PUBLIC, CIFAR10_CUTMIX)
SUITES = {
    s.name: s
    for s in (
        DETECTION,
        *HEADS,
        DIGITS_CLS,
        CIFAR10,
        *TRAINED,
        PERSONS,
        PERSONS_TRAINED,
        CIFAR100_SMALL,
        *LARGE,
        *ABOUT,
    )
}


def results(suite: Suite) -> Path:
    """Where a suite keeps its rows."""
    return RESULTS / f'{suite.name.replace("-", "_")}.json'


def read(path: Path) -> list[dict]:
    """Rows that are there."""
    return json.loads(path.read_text()) if path.is_file() else []


def add(path: Path, row: dict) -> None:
    """Append a row; other processes may do the same."""
    path.parent.mkdir(exist_ok=True)
    with open(path.with_suffix('.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = ',\n '.join(json.dumps(r) for r in [*read(path), row])
        part = path.with_suffix('.part')
        part.write_text(f'[{lines}]\n')
        part.replace(path)


def commit() -> str:
    """The version that runs, with a plus where code was changed."""

    def git(*words: str) -> str:
        done = subprocess.run(['git', *words], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip()

    changed = git('status', '--porcelain', '--', 'kd_mm', 'configs', 'benchmarks/*.py')
    return git('rev-parse', '--short', 'HEAD') + ('+' if changed else '')


def one_run(suite: Suite, method: str, seed: int, setting: dict, device: str) -> dict:
    """Train and evaluate one student; what went wrong where it cannot."""
    name = re.sub(r'\W+', '_', method)
    folder = ROOT / f'work_dirs/gain/{suite.name}/{name}-{seed}'
    began = time.time()
    try:
        metrics = suite.run(method, folder, seed=seed, **setting)
    except (RuntimeError, ValueError, FloatingPointError) as error:
        metrics = dict(failed=str(error).splitlines()[0])
    return metrics | dict(
        seconds=round(time.time() - began, 1),
        commit=commit(),
        torch=torch.__version__,
        device=device,
    )


def show(rows: list[dict], suite: Suite, methods: list[str]) -> None:
    """Means, standard deviations, and paired differences to the suite's base."""
    table = Table()
    metrics = list(suite.metrics)
    heads = ('', 'seeds', *metrics, f'{metrics[0]} - {suite.base} (± std. error)')
    for column in heads:
        table.add_column(column)
    done = [row for row in rows if 'failed' not in row]
    start = {r['seed']: r[metrics[0]] for r in done if r['method'] == suite.base}
    for method in methods:
        own = [row for row in done if row['method'] == method]
        if not own:
            continue
        gains = [r[metrics[0]] - start[r['seed']] for r in own if r['seed'] in start]
        paired = ''
        if method != suite.base and len(gains) > 1:
            error = statistics.stdev(gains) / len(gains) ** 0.5
            paired = f'{statistics.mean(gains):+.2f} ± {error:.2f}'
        means = (mean_std([row[metric] for row in own]) for metric in metrics)
        table.add_row(method, str(len(own)), *means, paired)
    Console().print(table)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('suite', nargs='?', choices=SUITES)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    parser.add_argument('--only', nargs='+', metavar='METHOD')
    parser.add_argument('--images', type=int, help='training images')
    parser.add_argument('--epochs', type=int)
    parser.add_argument('--before', type=int, help='epochs alone, of a trained student')
    parser.add_argument('--threads', type=int, default=1)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.suite is None:
        for suite in SUITES.values():
            print(f'{suite.name}: {suite.about}; {", ".join(suite.methods)}')
        return
    suite = SUITES[args.suite]
    torch.set_num_threads(args.threads)
    given = dict(images=args.images, epochs=args.epochs, before=args.before)
    setting = suite.setting | {k: v for k, v in given.items() if v is not None}
    methods = args.only or list(suite.methods)
    if unknown := set(methods) - set(suite.methods):
        raise SystemExit(f'error: {suite.name} has no {", ".join(sorted(unknown))}')
    path = results(suite)
    about = setting | dict(teacher=suite.teacher.stem)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    for seed in args.seeds:
        for method in methods:
            own = dict(method=method, seed=seed, **about)
            if any(own.items() <= row.items() for row in read(path)):
                continue
            own |= one_run(suite, method, seed, setting, device)
            add(path, own)
            print(json.dumps(own), flush=True)
    refresh()
    rows = [row for row in read(path) if about.items() <= row.items()]
    show(rows, suite, methods)


if __name__ == '__main__':
    main()
