"""Distillation of a classifier, on handwritten digits: python tools/demo_cls.py

Trains a teacher, a small student alone and, by tools/train.py with --teacher, the same
student distilled, with the same seed and budget; tests all three on images that none
of them has seen, prints a table, and draws curves into work_dirs/demo_cls/.
"""

import json
import shutil
import sys
from pathlib import Path

from demo import HOME, call, console, draw_curves, read_scalars
from rich.table import Table

from kd_mm.utils import cli

CONFIGS = f'{HOME}/configs/kd_cls/digits/'
RUNS = {  # the network, and whether the first one teaches it
    'teacher': ('resnet20', False),
    'student alone': ('resnet8', False),
    'student distilled': ('resnet8', True),
}


def main() -> int:
    parser = cli.Parser(description=__doc__)
    parser.add_argument('--out', default='work_dirs/demo_cls', help='for results')
    parser.add_argument('--fresh', action='store_true', help='start over')
    args = parser.parse_args()
    out = Path(args.out)
    if args.fresh:
        shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    teacher = out / 'teacher' / 'epoch_30.pth'
    results = {
        name: run(name, f'{CONFIGS}{network}.py', out, teacher if taught else None)
        for name, (network, taught) in RUNS.items()
    }
    (out / 'results.json').write_text(json.dumps(results, indent=1))
    draw_curves(
        results,
        out / 'curves.png',
        metric='accuracy/top1',
        title='top-1 on the validation set, %',
        has_total=False,
    )
    show(results, out)
    return 0


def run(name: str, config: str, out: Path, teacher: Path | None) -> dict:
    """Train and test one network, or read what an earlier call left."""
    console.rule(name)
    folder = out / name.replace(' ', '_')
    done = folder / 'done.json'
    if done.is_file():
        console.print(f'{folder.name} was trained before; --fresh trains it again')
        return json.loads(done.read_text())
    shutil.rmtree(folder, ignore_errors=True)
    options = ['--work-dir', str(folder)]
    if teacher:
        options += ['--teacher', f'{CONFIGS}resnet20.py']
        options += ['--teacher-checkpoint', str(teacher)]
    call('train', config, *options)
    checkpoint = str(folder / 'epoch_30.pth')
    test = folder / 'test'
    call('test', config, checkpoint, '--work-dir', str(test))
    path = max(test.glob('*/*.json'), key=lambda p: p.stat().st_mtime)
    metric = json.loads(path.read_text().splitlines()[-1])
    steps = [row['time'] for row in read_scalars(folder) if 'loss' in row]
    result = dict(
        top1=metric['accuracy/top1'],
        parameters=count(checkpoint),
        seconds_per_step=sorted(steps)[len(steps) // 2],
        folder=str(folder),
    )
    done.write_text(json.dumps(result))
    return result


def count(checkpoint: str) -> int:
    """Parameters of the network without what only distils."""
    from kd_mm.utils.files import read_checkpoint

    state = read_checkpoint(checkpoint, key='checkpoint')['state_dict']
    counters = ('running_mean', 'running_var', 'num_batches_tracked')
    return sum(
        value.numel()
        for key, value in state.items()
        if not key.startswith('distiller.') and not key.endswith(counters)
    )


def show(results: dict, out: Path) -> None:
    """Print the table."""
    table = Table(title='Digits: 300 training images (the teacher 600), 797 to test')
    for column in ('', 'top-1', 'parameters', 'seconds per step'):
        table.add_column(column, justify='left' if not column else 'right')
    for name, row in results.items():
        thousands = f'{row["parameters"] / 1e3:.0f} k'
        step = f'{row["seconds_per_step"]:.3f}'
        table.add_row(name, f'{row["top1"]:.1f} %', thousands, step)
    console.print(table)
    console.print(
        'One seed of each; docs/results/classification.md has nine, and all methods.'
    )
    console.print(f'Curves: {out / "curves.png"}')


if __name__ == '__main__':
    sys.exit(main())
