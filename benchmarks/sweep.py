"""Paired digits runs of several links over several seeds, into one result file."""

import argparse
import json
import re
import statistics
import time

import torch
from digits_runs import ROOT, TEACHER, digits_config, distil, mean_std, metric, train
from rich.console import Console
from rich.table import Table
from tables import refresh

RESULTS = ROOT / 'benchmarks/results'


def sweep(*, about: str, methods: dict[str, dict | None], base: str) -> None:
    """Train every method with every seed, unless its row is there, and print a table.

    Runs of one seed start from the same weights and see the same batches. All sweeps
    keep their rows in one file, so what they have in common is run once.

    Args:
        about (str): For ``--help``.
        methods (dict): Keyword arguments of :func:`digits_runs.distil` but the
            teacher; None is the student alone.
        base (str): The method that the others are compared with, seed by seed.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--images', type=int, default=600)
    parser.add_argument('--epochs', type=int, default=8)
    parser.add_argument('--only', nargs='+', choices=methods, default=list(methods))
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / 'digits.json'
    setting = dict(images=args.images, epochs=args.epochs, teacher=TEACHER.stem)
    for seed in range(args.seeds):
        for method in args.only:
            own = dict(method=method, seed=seed, **setting)
            # another sweep may have added rows in the meantime
            rows = json.loads(path.read_text()) if path.is_file() else []
            if any(own.items() <= row.items() for row in rows):
                continue
            own |= one_run(methods[method], own)
            rows = json.loads(path.read_text()) if path.is_file() else []
            path.parent.mkdir(exist_ok=True)
            lines = ',\n '.join(json.dumps(row) for row in [*rows, own])
            path.write_text(f'[{lines}]\n')
            print(f'{method} {seed}: {own["mAP"]:.2f}, {own["seconds"]} s', flush=True)
    refresh()
    rows = json.loads(path.read_text())
    print_table([r for r in rows if setting.items() <= r.items()], methods, base)


def one_run(link: dict | None, own: dict) -> dict:
    """Train and evaluate one student."""
    name = re.sub(r'\W+', '_', own['method'])
    folder = ROOT / f'work_dirs/digits_sweep/{name}-{own["seed"]}'
    cfg = digits_config(
        folder, images=own['images'], epochs=own['epochs'], seed=own['seed']
    )
    cfg.default_hooks.checkpoint = None
    if link is not None:
        checkpoint = str(TEACHER.with_suffix('.pth'))
        distil(cfg, teacher=dict(config=str(TEACHER), checkpoint=checkpoint), **link)
    began = time.time()
    runner = train(cfg)
    return dict(
        mAP=round(metric(runner), 2),
        mAP_50=round(metric(runner, 'coco/bbox_mAP_50'), 2),
        seconds=round(time.time() - began, 1),
    )


def print_table(rows: list[dict], methods: dict, base: str) -> None:
    """Means, standard deviations, and paired differences to ``base``."""
    table = Table()
    for column in ('', 'seeds', 'mAP', 'mAP_50', f'mAP - {base} (± std. error)'):
        table.add_column(column)
    start = {r['seed']: r['mAP'] for r in rows if r['method'] == base}
    for method in methods:
        own = [r for r in rows if r['method'] == method]
        if not own:
            continue
        gains = [r['mAP'] - start[r['seed']] for r in own if r['seed'] in start]
        paired = ''
        if method != base and len(gains) > 1:
            error = statistics.stdev(gains) / len(gains) ** 0.5
            paired = f'{statistics.mean(gains):+.2f} ± {error:.2f}'
        table.add_row(
            method,
            str(len(own)),
            mean_std([r['mAP'] for r in own]),
            mean_std([r['mAP_50'] for r in own]),
            paired,
        )
    Console().print(table)
