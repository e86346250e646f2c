#!/usr/bin/env python
"""Is `links='auto'` as good as the best link made by hand? Five pairs on the digits.

    python benchmarks/auto_digits.py                    # what has no row yet, all pairs
    python benchmarks/auto_digits.py classes --seeds 0 1
    python benchmarks/auto_digits.py classes --pilot    # other seeds, validation images

Nothing is chosen on what is reported: what 'auto' is made of was, on the seeds and
images of `--pilot`, whose rows are shown and not kept. As in gain.py a row that is in
benchmarks/results/auto_digits_*.json is not run again, and several processes may share
the work if they are given other pairs or seeds.
"""

import argparse
import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from combine import hosts
from digits_runs import digits_config, metric, train
from gain import RESULTS, ROOT, add, one_run, read
from mmengine.config import Config
from suites import ADAPTER, DETECTION, DIGITS, Suite, neck
from suites_cls import (
    DIGITS_CLS,
    DIGITS_TEACHER,
    digits_cls_config,
    runtime,
    shortened,
)
from tables import refresh

WORK = ROOT / 'work_dirs/gain/auto_digits'
PILOT = (100, 101, 102, 103)  # seeds
CLASSIFIERS = (
    'KD', 'DKD', 'DIST', 'FitNet', 'AT', 'SP', 'PKD', 'CWD', 'FitNet without adapter',
)  # fmt: skip


def by_hand(*, same_widths: bool) -> dict[str, dict]:
    """The hosts of the digits, with an adapter where the widths ask for one."""
    own = {host: shortened(hosts()[host], epochs=30) for host in CLASSIFIERS}
    if same_widths:
        return own
    del own['FitNet without adapter']
    for host in ('PKD', 'CWD'):
        own[host]['map']['stages'] = [dict(type='kd_mm.ConvAdapter')]
    return own


def detectors(*, same_widths: bool) -> dict[str, dict]:
    """The strongest hosts of the digits."""
    own = {name: DIGITS[name] for name in ('FitNet', 'PKD', 'CWD', 'FGD', 'KD')}
    if not same_widths:
        for name in ('PKD', 'CWD', 'FGD'):
            own[name] = neck(ADAPTER, criterion=own[name]['fpn']['criterion'])
    return own


def trained(name: str, model: dict) -> Callable[[], Path]:
    """Weights of another teacher of the digits, trained in seconds if need be."""

    def checkpoint() -> Path:
        folder = WORK / f'teacher-{name}'
        path = folder / 'epoch_30.pth'
        if not path.is_file():
            cfg = Config.fromfile(DIGITS_TEACHER)
            cfg.merge_from_dict(dict(model=copy.deepcopy(model)))  # it changes it
            cfg = runtime(cfg, folder, seed=1000, epochs=30)
            found = metric(train(cfg), 'accuracy/top1', scale=1.0)
            print(f'teacher {name}: {found:.2f}', flush=True)
        return path

    return checkpoint


def narrow_neck(folder: Path, **setting) -> Config:
    """The detector of the digits with half of its channels behind the backbone."""
    cfg = digits_config(folder, **setting)
    cfg.model.neck.out_channels = 32
    cfg.model.bbox_head.update(in_channels=32, feat_channels=32)
    return cfg


def teacher_config(name: str, model: dict) -> Path:
    """A file with another teacher of the digits."""
    path = WORK / f'{name}.py'
    path.parent.mkdir(parents=True, exist_ok=True)
    cfg = Config.fromfile(DIGITS_TEACHER)
    cfg.merge_from_dict(dict(model=copy.deepcopy(model)))  # it changes it
    cfg.dump(path)
    return path


WIDE = dict(backbone=dict(channels=(16, 16, 32, 64)), head=dict(in_channels=64))
WRN = dict(
    backbone=dict(
        _delete_=True, type='kd_mm.WideResNetCIFAR', depth=16, widen=1
    ),
    head=dict(in_channels=64),
)  # fmt: skip


def suites() -> dict[str, Suite]:
    """The five pairs."""
    small = dict(images=300, epochs=6)
    found = dict(
        classes=DIGITS_CLS,
        classes_wider=replace(
            DIGITS_CLS,
            teacher=teacher_config('resnet20_wide', WIDE),
            checkpoint=trained('resnet20_wide', WIDE),
        ),
        classes_other=replace(
            DIGITS_CLS,
            teacher=teacher_config('wrn_16_1', WRN),
            checkpoint=trained('wrn_16_1', WRN),
        ),
        boxes=replace(DETECTION, setting=small),
        boxes_narrower=replace(DETECTION, config=narrow_neck, setting=small),
    )
    for name, suite in found.items():
        same = name in ('classes', 'boxes')
        own = by_hand if name.startswith('classes') else detectors
        methods = dict(alone=None, auto=dict(links='auto')) | own(same_widths=same)
        found[name] = replace(
            suite, name=f'auto_digits/{name}', base='alone', methods=methods
        )
    return found


def piloted(suite: Suite) -> Suite:
    """The same on validation images, with what 'auto' might be made of."""
    might: dict[str, dict | None] = {}
    if 'boxes' in suite.name:
        might |= {name: dict(links=name) for name in ('pkd', 'cwd', 'fitnet', 'fgd')}
        return replace(suite, methods=suite.methods | might)
    for name in ('KD', 'DIST'):
        for logits, features in ((0.8, 0), (0.8, 0.3), (0.8, 0.8), (0.9, 0.8)):
            # as 'auto' holds them: to the end
            held = [dict(target=part, falls_to=1.0) for part in (logits, features)]
            links = dict(logits=dict(suite.methods[name]['logits'], share=held[0]))
            if features:
                links['map'] = dict(suite.methods['PKD']['map'], share=held[1])
            might[f'{name} {logits:g} PKD {features:g}'] = dict(links=links)

    def config(*args, **kwargs) -> Config:
        cfg = digits_cls_config(*args, **kwargs)
        cfg.val_dataloader.dataset.dataset.split = 'val'
        return cfg

    return replace(suite, methods=suite.methods | might, config=config)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('pairs', nargs='*', help='of the five; default: all')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    parser.add_argument('--only', nargs='+', default=[], metavar='METHOD')
    parser.add_argument('--pilot', action='store_true', help='other seeds and images')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    for seed in PILOT if args.pilot else args.seeds:
        for name, suite in suites().items():
            if args.pairs and name not in args.pairs:
                continue
            suite = piloted(suite) if args.pilot else suite
            path = RESULTS / f'auto_digits_{name.split("_")[0]}.json'
            for method in suite.methods:
                if args.only and method not in args.only:
                    continue
                own = dict(pair=name, method=method, seed=seed, **suite.setting)
                if any(own.items() <= row.items() for row in read(path)):
                    continue
                own |= one_run(suite, method, seed, suite.setting, 'cpu')
                print(json.dumps(own), flush=True)
                if not args.pilot:
                    add(path, own)
    if not args.pilot:
        refresh()


if __name__ == '__main__':
    main()
