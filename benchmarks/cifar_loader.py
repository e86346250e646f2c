#!/usr/bin/env python
"""How fast the two ways to CIFAR are: image by image, and as one tensor.

    python benchmarks/cifar_loader.py [--device cuda]

Batches go through the real data loader and the classifier's preprocessor, in turns
within one run. Needs images in data/cifar10 (the subset that the configs read).
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator

import torch
from digits_runs import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from tables import refresh

import kd_mm  # noqa: F401  makes `kd_mm::` known to MMEngine

FAST = ROOT / 'configs/kd_cls/_base_/datasets/cifar10_subset_fast.py'
PIPELINE = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]


def loader_of(path: str, workers: int, device: str) -> Config:
    """Config of one of the two training loaders."""
    cfg = Config.fromfile(FAST).train_dataloader
    cfg.num_workers = workers
    cfg.persistent_workers = workers > 0
    if path == 'tensor':
        cfg.dataset.device = device
    else:
        cfg.dataset = dict(cfg.dataset.dataset, pipeline=PIPELINE)
        cfg.collate_fn = dict(type='default_collate')
    return cfg


def endless(loader) -> Iterator[dict]:
    while True:
        yield from loader


def rate(batches: Iterator[dict], preprocess, *, count: int, device: str) -> float:
    """Images per second over ``count`` batches."""
    began, images = time.perf_counter(), 0
    for _ in range(count):
        images += len(preprocess(next(batches), True)['inputs'])
    if device == 'cuda':
        torch.cuda.synchronize()
    return images / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--turns', type=int, default=9)
    parser.add_argument('--batches', type=int, default=60)
    args = parser.parse_args()
    ways = {('images', 0): [], ('images', 2): [], ('tensor', 0): []}
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        options = Config.fromfile(FAST).data_preprocessor
        preprocess = MODELS.build(dict(type='ClsDataPreprocessor', **options))
        preprocess = preprocess.to(args.device)
        running = {
            way: endless(Runner.build_dataloader(loader_of(*way, args.device), seed=0))
            for way in ways
        }
        for batches in running.values():  # the first ones start the workers
            rate(batches, preprocess, count=5, device=args.device)
        for _ in range(args.turns):
            for way, batches in running.items():
                found = rate(
                    batches, preprocess, count=args.batches, device=args.device
                )
                ways[way].append(found)
    base = [max(pair) for pair in zip(*list(ways.values())[:2], strict=True)]
    rows = []
    for (path, workers), found in ways.items():
        low, middle, high = statistics.quantiles(found, n=4)
        times = statistics.median(a / b for a, b in zip(found, base, strict=True))
        rows.append(
            dict(
                way=path,
                workers=workers,
                images_per_second=f'{middle:.0f} ({low:.0f} to {high:.0f})',
                times_the_best_pipeline=f'{times:.2f}',
                device=args.device,
                torch=torch.__version__,
            )
        )
        print(rows[-1])
    path = ROOT / f'benchmarks/results/cifar_loader_{args.device}.json'
    lines = ',\n '.join(json.dumps(row) for row in rows)
    path.write_text(f'[{lines}]\n')
    refresh()


if __name__ == '__main__':
    main()
