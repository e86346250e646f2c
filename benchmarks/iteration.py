#!/usr/bin/env python
"""Where a whole iteration goes, data loading, logging and hooks included.

    python benchmarks/iteration.py

Small models meet this: beside a step of 50 ms everything counts. The second epoch of
runs of benchmarks/gain.py under Python's profiler, which makes Python look dearer than
it is: what is ours is at most this.
"""

import cProfile
import dataclasses
import pstats
import re
from pathlib import Path

import torch
from digits_runs import ROOT
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table
from steps import store
from suites import CWD, DETECTION, Suite, neck
from suites_cls import CIFAR10
from tables import refresh

SHARE = {'CWD, share 0.5': dict(fpn=dict(neck(criterion=CWD)['fpn'], share=0.5))}
RUNS = (  # suite, training images, methods
    (
        dataclasses.replace(DETECTION, methods=DETECTION.methods | SHARE),
        320,
        ('PKD', 'FitNet + DAM', 'DPK dynamic', *SHARE),
    ),
    (CIFAR10, 2560, ('KD', 'PKD')),
)
OURS = ('distill_hook.py', 'restore_hook.py')
PARTS = {  # column: function
    'data': ('dataloader.py', '__next__'),
    'student': ('distill.py', '_student_loss'),
    'teacher': ('teachers.py', '__call__'),
    'method': ('distiller.py', 'forward'),
    'backward': ('graph.py', '_engine_run_backward'),
    'update': ('optimizer_wrapper.py', 'step'),
}


class Profiled(Hook):
    """Watches the second epoch; the first has what happens once."""

    priority = 'HIGHEST'

    def __init__(self) -> None:
        self.profile = cProfile.Profile()

    def before_train_epoch(self, runner: Runner) -> None:
        if runner.epoch == 1:
            self.profile.enable()

    def after_train_epoch(self, runner: Runner) -> None:
        self.profile.disable()


def spent(profile: cProfile.Profile) -> dict[str, float]:
    """Percent of the time in each part, in what else is ours, and in all the rest."""
    seen = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(own for _, _, own, *_ in seen.values())

    def within(file: str, name: str) -> float:
        return sum(
            value[3]
            for (path, _, function), value in seen.items()
            if Path(path).name == file and function == name
        )

    found = {part: within(*where) for part, where in PARTS.items()}
    inner = found['student'] + found['teacher'] + found['method']
    hooks = sum(
        within(file, name)
        for file in OURS
        for name in ('before_train_iter', 'after_train_iter')
    )
    found['else_of_ours'] = within('distill.py', 'loss') - inner + hooks
    found['else'] = total - sum(found.values())
    return {part: round(100 * value / total, 2) for part, value in found.items()}


def report(method: str, suite: Suite, images: int) -> dict:
    """Profile one run of a suite."""
    hook = Profiled()
    folder = ROOT / 'work_dirs/iteration' / re.sub(r'\W+', '_', method)
    suite.run(method, folder, seed=0, images=images, epochs=2, hooks=(hook,))
    return dict(config=f'{suite.name}: {method}', **spent(hook.profile))


def main() -> None:
    torch.set_num_threads(1)
    table = Table('', *PARTS, 'else_of_ours', 'else')
    for suite, images, methods in RUNS:
        for method in methods:
            row = report(method, suite, images)
            store(ROOT / 'benchmarks/results/iteration.json', row['config'], [row])
            table.add_row(*map(str, row.values()))
    Console().print(table)
    refresh()


if __name__ == '__main__':
    main()
