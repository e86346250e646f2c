#!/usr/bin/env python
"""What a distilled step costs, beside the plain step and the teacher's forward pass.

    python benchmarks/cost.py                                  # the default configs
    python benchmarks/cost.py configs/kd/my.py --size 320 320 --batch-size 2

Everything of one config is measured in turns within one run, so that a machine's moods
hit all alike; ratios are taken turn by turn, and their median and quartiles reported.
Random weights and images; no data is read. Run it on a machine that does nothing else.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table
from steps import (
    Bench,
    flops,
    measure,
    random_batch,
    ratio,
    runs_without_waiting,
    store,
)
from tables import refresh

from kd_mm.utils.kinds import is_type, type_name

ROOT = Path(__file__).resolve().parents[1]
DIGITS = 'configs/kd/digits/retinanet_r18w24_r18w16_{}_digits.py'
COCO = 'configs/kd/retinanet_r101_r50_{}.py'
GFL = 'configs/kd/gfl_r101_r50_{}.py'
FASTER = 'configs/kd/faster_rcnn_r101_r50_{}.py'
DETR = 'configs/kd/deformable_detr_r50_r18_{}.py'
CIFAR = 'configs/kd_cls/cifar100/resnet32x4_resnet8x4_{}.py'
IMAGENET = 'configs/kd_cls/imagenet/resnet34_resnet18_{}.py'
DPK = ('dpk', 'dpk_lean')
NAMES = {
    (DIGITS, 8, 128): ('fitnet', 'pkd', 'cwd_share', 'kcd_pkd', 'sokd_stable', 'dpk'),
    (COCO, 1, 320): ('fitnet', 'cwd', 'pkd', 'kcd_pkd', 'sokd_stable', *DPK),
    (GFL, 1, 320): ('ld', 'crosskd', 'crosskd_pkd'),
    (FASTER, 1, 320): ('crosskd',),
    (DETR, 1, 320): ('queries',),
    (CIFAR, 64, 32): ('kd', 'fitnet', 'cwd', 'pkd', 'kcd', 'sokd', *DPK),
    (IMAGENET, 8, 224): ('kd', 'review', 'sokd', *DPK),
}
# config -> images in a step, height and width
DEFAULT = {
    pattern.format(name): (batch, (side, side))
    for (pattern, batch, side), names in NAMES.items()
    for name in names
}
# an accelerator is given what it is trained with
SIZES_ON_GPU = {COCO: (2, (800, 1333)), CIFAR: (64, (32, 32))}
ON_GPU = {
    pattern.format(name): SIZES_ON_GPU[pattern]
    for (pattern, *_), names in NAMES.items()
    if pattern in SIZES_ON_GPU
    for name in names
}


def defaults(device: str) -> dict[str, tuple[int, tuple[int, int]]]:
    """What is measured on a device when nothing is said."""
    return ON_GPU if device == 'cuda' else DEFAULT


def milliseconds(seconds: list[float]) -> float:
    """Their median."""
    return round(1000 * statistics.median(seconds), 1)


def first_step(bench: Bench) -> dict[str, float]:
    """Seconds from a config to the end of the first step, plain and distilled."""
    found = {}
    for model, built in ((bench.plain, bench.built_plain), (bench.distilled, None)):
        began = time.perf_counter()
        bench.step(model)
        name = 'distilled' if built is None else 'plain'
        built = bench.built if built is None else built
        found[name] = built + time.perf_counter() - began
    return found


def report(path: Path, *, batch: int, size: tuple[int, int], args) -> dict:
    """One row: a config's times, ratios and memory."""
    cfg = Config.fromfile(path)
    data = random_batch(batch, size, args.device)
    bench = Bench(cfg, data=data, device=args.device)
    first = first_step(bench)
    variants = bench.variants()
    seconds = measure(variants, repeats=args.repeats, device=args.device)
    work = {n: flops(variants[n]) for n in ('student', 'teacher', 'distilled')}
    memory = bench.memory(args.device)
    extra = sum(p.numel() for p in bench.distilled.distiller.parameters())
    row = dict(
        config=path.stem,
        batch=batch,
        size=f'{size[0]} x {size[1]}',
        turns=args.repeats,
        student_ms=milliseconds(seconds['student']),
        teacher_ms=milliseconds(seconds['teacher']),
        overhead=ratio(seconds['distilled'], seconds['student'], seconds['teacher']),
        flops=f'{work["distilled"] / (work["student"] + work["teacher"]):.3f}',
        search='',
        prediction=ratio(seconds['predict_distilled'], seconds['predict_plain']),
        teacher_part=ratio(seconds['teacher'], seconds['whole_teacher']),
        plain_MiB=round(memory['student'] / 2**20),
        distilled_MiB=round(memory['distilled'] / 2**20),
        memory=f'{memory["distilled"] / memory["bound"]:.3f}',
        extra_parameters=f'{extra / 1e6:.2f} M',
        first_step_s=f'{first["plain"]:.1f} / {first["distilled"]:.1f}',
        optimiser=bench.trained_by(),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        device=args.device,
    )
    if 'search' in seconds:
        row['search'] = ratio(seconds['search'], seconds['student'], seconds['teacher'])
    if args.device == 'cuda':
        row['no_waiting'] = runs_without_waiting(variants['distilled'])
    return row


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('configs', nargs='*', help='default: a list of shipped ones')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--repeats', type=int, default=15)
    parser.add_argument(
        '--batch-size', type=int, help="default: the config's own (shipped ones: small)"
    )
    parser.add_argument(
        '--size', type=int, nargs=2, metavar=('H', 'W'),
        help="of the images; default: the config's trial_size, or 256 x 256",
    )  # fmt: skip
    args = parser.parse_args()
    if args.repeats < 2:
        sys.exit('error: --repeats must be >= 2')
    for name in args.configs:
        if not Path(name).is_file():
            sys.exit(f'error: there is no config {name}')
    return args


def wanted(path: Path, args: argparse.Namespace) -> tuple[int, tuple[int, int]]:
    """Images in a step, and their height and width."""
    cfg = Config.fromfile(path)
    if not is_type(cfg.model, 'kd_mm.Distill'):
        sys.exit(
            f'error: {path} is not distilled: model.type is {type_name(cfg.model)}'
        )
    name = path.resolve()
    key = str(name.relative_to(ROOT)) if name.is_relative_to(ROOT) else ''
    batch = cfg.train_dataloader.batch_size
    batch, size = defaults(args.device).get(
        key, (batch, cfg.model.get('trial_size', (256, 256)))
    )
    return args.batch_size or batch, tuple(args.size or size)


def main() -> None:
    args = parse_args()
    MMLogger.get_instance('cost', log_level='WARNING')
    result = ROOT / f'benchmarks/results/cost_{args.device}.json'
    table = Table('config', 'student', 'teacher', 'overhead', 'search', 'memory')
    paths = (
        map(Path, args.configs)
        if args.configs
        else [ROOT / p for p in defaults(args.device)]
    )
    for path in paths:
        batch, size = wanted(path, args)
        row = report(path, batch=batch, size=size, args=args)
        store(result, row['config'], [row])
        times = (f'{row[key]:.0f} ms' for key in ('student_ms', 'teacher_ms'))
        cells = (row[key] for key in ('overhead', 'search', 'memory'))
        table.add_row(row['config'], *times, *cells)
        print(row['config'], row['overhead'], row['search'], flush=True)
    refresh()
    Console().print(table)


if __name__ == '__main__':
    main()
