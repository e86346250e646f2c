#!/usr/bin/env python
"""What changes did to the cost of a step: two versions of the package, in turns.

    python benchmarks/cost_commits.py dd663ab^                   # that one and this one
    python benchmarks/cost_commits.py HEAD~1 --configs configs/kd/my.py

Each version lives in a process of its own, with the configs and the measuring of this
one; a turn is a turn of both, so that a machine's moods hit both alike, and both start
from the same weights. `after / before` is the distilled step's time, turn by turn;
`losses differ by` compares the losses of six steps of training, five of them at
`--rate`: 0 is bit for bit.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from cost import CIFAR, COCO, DIGITS, IMAGENET, ROOT, wanted
from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table
from steps import Bench, flops, random_batch, ratio, store, timed
from tables import refresh

DEFAULT = (
    *(pattern.format('dpk') for pattern in (DIGITS, COCO, CIFAR, IMAGENET)),
    DIGITS.format('sokd_stable'),  # RetinaNet's diverges at this rate: --rate 1e-5
    *(IMAGENET.format(name) for name in ('sokd', 'review')),
)
TIMED = ('student', 'teacher', 'distilled')
STEPS = 5


# --- in the process of a version ------------------------------------------------------
def losses(bench: Bench, rate: float) -> list[float]:
    """Of the first steps of training."""
    model, found = bench.distilled, []
    groups = bench.optimizers[id(model)].optimizer.param_groups
    for own in (*[rate] * STEPS, 1e-6):
        for group in groups:
            group['lr'] = own
        found.append(float(bench.step(model)))
    return found


def same_weights(bench: Bench, path: Path) -> None:
    """Those that the other version wrote, or write them."""
    parts = (bench.distilled, bench.distilled.distiller.teacher.model)
    if path.is_file():
        for part, state in zip(parts, torch.load(path), strict=True):
            part.load_state_dict(state)
    else:
        torch.save([part.state_dict() for part in parts], path)


def serve(path: Path, weights: Path, rate: float) -> None:
    """Measure whenever asked; answers are lines of JSON."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # whatever is printed is not an answer

    def say(content: dict) -> None:
        print(json.dumps(content), file=answers, flush=True)

    MMLogger.get_instance('cost', log_level='WARNING')
    torch.manual_seed(0)
    batch, size = wanted(path, argparse.Namespace(device='cpu', batch_size=0, size=()))
    data = random_batch(batch, size, 'cpu')
    bench = Bench(Config.fromfile(path), data=data, device='cpu')
    same_weights(bench, weights)
    torch.manual_seed(1)
    variants = {name: bench.variants()[name] for name in TIMED}
    about = dict(batch=batch, size=f'{size[0]} x {size[1]}', losses=losses(bench, rate))
    about |= {f'{name}_flops': flops(run) for name, run in variants.items()}
    say(about | dict(memory=bench.memory('cpu')))
    for _ in sys.stdin:
        say({name: timed(run, 'cpu') for name, run in variants.items()})


# --- in the one that compares ---------------------------------------------------------
@contextlib.contextmanager
def package(commit: str) -> Iterator[Path]:
    """Where a version's package lies; its configs are those of this one."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / 'tree'
        git = ('git', '-C', str(ROOT), 'worktree')
        subprocess.run([*git, 'add', '--quiet', '--detach', tree, commit], check=True)
        try:
            share_configs(tree)
            yield tree
        finally:
            subprocess.run([*git, 'remove', '--force', tree], check=True)


def share_configs(tree: Path) -> None:
    """What an installation does, so that `kd_mm::` finds this version's configs."""
    mim = tree / 'kd_mm/.mim'
    mim.mkdir()
    for name in ('configs', 'tools', 'model-index.yml'):
        (mim / name).symlink_to(ROOT / name)


def version(where: Path, *words: object) -> subprocess.Popen:
    """A process that measures with the package that lies there; see :func:`serve`."""
    env = os.environ | dict(PYTHONPATH=str(where))
    command = [sys.executable, __file__, '--serve', *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True)


def answer(process: subprocess.Popen) -> dict:
    """Its next line."""
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        raise SystemExit('error: a version failed, see above')
    return json.loads(line)


def ask(process: subprocess.Popen) -> dict:
    """Let it measure a turn."""
    assert process.stdin
    print(file=process.stdin, flush=True)
    return answer(process)


def compare(
    path: Path, commit: str, *, before: Path, weights: Path, repeats: int, rate: float
) -> dict:
    """One row; ``weights`` is where both find the same ones."""
    both: list[subprocess.Popen] = []
    about: list[dict] = []
    try:
        for where in (before, ROOT):
            both.append(version(where, path, weights, rate))
            about.append(answer(both[-1]))
        turns = [[ask(process) for process in both] for _ in range(repeats + 2)][2:]
    finally:
        for process in both:
            process.kill()
            process.wait()
    row = dict(config=path.stem, before_commit=commit, turns=repeats, rate=rate)
    row |= {key: about[1][key] for key in ('batch', 'size')}
    steps = []
    for i, name in enumerate(('before', 'after')):
        own = {key: [turn[i][key] for turn in turns] for key in TIMED}
        work = {key: about[i][f'{key}_flops'] for key in TIMED}
        memory = about[i]['memory']
        steps.append(own['distilled'])
        row[name] = ratio(own['distilled'], own['student'], own['teacher'])
        plain = work['student'] + work['teacher']
        row[f'flops_{name}'] = f'{work["distilled"] / plain:.3f}'
        row[f'memory_{name}'] = f'{memory["distilled"] / memory["bound"]:.3f}'
    row['after / before'] = ratio(steps[1], steps[0])
    row['losses differ by'] = f'{difference(*(a["losses"] for a in about)):.1e}'
    return row | dict(torch=torch.__version__, threads=torch.get_num_threads())


def difference(old: list[float], new: list[float]) -> float:
    """The largest of two courses of a loss, relative to it."""
    return max(abs(a - b) / abs(a) for a, b in zip(old, new, strict=True))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('commit', nargs='?', help='the version of before')
    parser.add_argument('--configs', nargs='+', default=DEFAULT)
    parser.add_argument('--repeats', type=int, default=9)
    parser.add_argument('--rate', type=float, default=1e-3, help='of learning')
    parser.add_argument('--serve', nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.serve and not args.commit:
        parser.error('which commit was before?')
    if args.repeats < 2:
        parser.error('--repeats must be >= 2')
    return args


def main() -> None:
    args = parse_args()
    if args.serve:
        path, weights, rate = args.serve
        return serve(Path(path), Path(weights), float(rate))
    git = ['git', '-C', str(ROOT), 'rev-parse', '--short', args.commit]
    commit = subprocess.run(git, check=True, capture_output=True, text=True).stdout
    result = ROOT / 'benchmarks/results/cost_commits_cpu.json'
    table = Table('config', 'before', 'after', 'after / before', 'losses differ by')
    with package(args.commit) as before:
        for name in args.configs:
            path = (ROOT / name).resolve()
            row = compare(
                path,
                commit.strip(),
                before=before,
                weights=before.parent / f'{path.stem}.pth',
                repeats=args.repeats,
                rate=args.rate,
            )
            store(result, row['config'], [row])
            table.add_row(row['config'], *(row[c.header] for c in table.columns[1:]))
            print(json.dumps(row), flush=True)
    refresh()
    Console().print(table)


if __name__ == '__main__':
    main()
