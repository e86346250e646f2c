#!/usr/bin/env python
"""KCD on the digits: what does putting the teacher's channels in order bring?

    python benchmarks/kcd_digits.py            # 30 runs, less than an hour on one core

The student alone, and adapter-free distillation with every transform of the teacher's
channels, over several seeds. Runs of one seed start from the same weights and see the
same batches. `identity` is what the criterion does without KCD; it begins when the
fitted maps do. Rows that are in the result file already are not run again; with every
new one the pages of results are brought up to date.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from digits_runs import ROOT, TEACHER, digits_config, distil, mean_std, metric, train
from rich.console import Console
from rich.table import Table
from tables import refresh

RESULT = ROOT / 'benchmarks/results/kcd_digits.json'
CHECKPOINT = TEACHER.with_suffix('.pth')
TRANSFORMS = ('identity', 'random', 'greedy', 'bipartite', 'procrustes')
CRITERIA = dict(
    pkd=dict(type='kd_mm.PKDLoss', weight=2.0),
    mse=dict(type='kd_mm.MSELoss', weight=5.0),
)


def one_run(args, transform: str, seed: int) -> dict:
    """Train and evaluate one student."""
    torch.set_num_threads(1)
    work_dir = args.folder / f'{args.criterion}-{transform}-{seed}'
    cfg = digits_config(work_dir, images=args.images, epochs=args.epochs, seed=seed)
    cfg.default_hooks.checkpoint = None
    if transform != 'alone':
        align = dict(type='kd_mm.ChannelAlign', transform=transform, fit_at=1)
        distil(
            cfg,
            teacher=dict(config=str(TEACHER), checkpoint=str(CHECKPOINT)),
            stages=[dict(align, share=args.share, seed=seed)],
            criterion=CRITERIA[args.criterion],
        )
    began = time.time()
    runner = train(cfg)
    return dict(
        criterion=args.criterion,
        transform=transform,
        seed=seed,
        images=args.images,
        epochs=args.epochs,
        share=args.share,
        teacher=TEACHER.stem,
        mAP=metric(runner),
        mAP_50=metric(runner, 'coco/bbox_mAP_50'),
        seconds=round(time.time() - began, 1),
    )


def print_table(rows: list[dict], title: str) -> None:
    """Means, standard deviations, and paired differences to identity."""
    table = Table(title=title, title_justify='left')
    for column in ('', 'seeds', 'mAP', 'mAP_50', 'mAP - identity (± std. error)'):
        table.add_column(column)
    base = {r['seed']: r['mAP'] for r in rows if r['transform'] == 'identity'}
    for transform in ('alone', *TRANSFORMS):
        own = [r for r in rows if r['transform'] == transform]
        if not own:
            continue
        gains = [r['mAP'] - base[r['seed']] for r in own if r['seed'] in base]
        paired = ''
        if transform != 'identity' and len(gains) > 1:
            error = statistics.stdev(gains) / len(gains) ** 0.5
            paired = f'{statistics.mean(gains):+.2f} ± {error:.2f}'
        table.add_row(
            transform,
            str(len(own)),
            mean_std([r['mAP'] for r in own]),
            mean_std([r['mAP_50'] for r in own]),
            paired,
        )
    Console().print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--criterion', choices=CRITERIA, default='pkd')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    parser.add_argument('--images', type=int, default=600)
    parser.add_argument('--epochs', type=int, default=8)
    parser.add_argument(
        '--per-level',
        dest='share',
        action='store_false',
        help='a map for every level, not one for all',
    )
    parser.add_argument('--folder', type=Path, default=Path('work_dirs/kcd_digits'))
    args = parser.parse_args()
    args.folder = args.folder.resolve()
    rows = json.loads(RESULT.read_text()) if RESULT.is_file() else []
    about = dict(
        criterion=args.criterion,
        images=args.images,
        epochs=args.epochs,
        share=args.share,
        teacher=TEACHER.stem,
    )

    def mine():
        return [r for r in rows if all(r[key] == v for key, v in about.items())]

    for seed in args.seeds:
        for transform in ('alone', *TRANSFORMS):
            if any((r['transform'], r['seed']) == (transform, seed) for r in mine()):
                continue
            rows.append(one_run(args, transform, seed))
            RESULT.parent.mkdir(exist_ok=True)
            lines = ',\n '.join(json.dumps(row) for row in rows)
            RESULT.write_text(f'[{lines}]\n')
            refresh()
            row = rows[-1]
            line = f'{transform} seed {seed}: {row["mAP"]:.2f}, {row["seconds"]} s'
            print(line, flush=True)
    print_table(mine(), ', '.join(f'{key} {value}' for key, value in about.items()))


if __name__ == '__main__':
    main()
