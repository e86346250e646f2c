#!/usr/bin/env python
"""How the cost of distillation grows with batch, image, levels, links and channels.

    python benchmarks/cost_growth.py            # 15 minutes on two cores
    python benchmarks/cost_growth.py --draw     # the figure alone, from what is there

One RetinaNet (ResNet-18, taught by a ResNet-50; random weights and images) and five
methods. One thing is varied at a time; at every point the plain step, the teacher's
forward pass and all methods are measured in turns. The figure shows the distilled step
over student plus teacher: docs/images/cost_growth.png.
"""

import argparse
import copy
import json
import statistics
from pathlib import Path

import matplotlib.pyplot as plt
from cost import ROOT, milliseconds
from mmengine.config import Config
from mmengine.logging import MMLogger
from steps import Bench, measure, random_batch, ratios

from kd_mm.utils.loading import load_model_config

BASE = dict(batch=1, size=192, levels=3, links=1, channels=None)
SWEEPS = dict(
    batch=(1, 2, 4, 6),
    size=(128, 192, 256, 320, 384),
    levels=(1, 2, 3, 4, 5),
    links=(1, 2, 3, 4, 5),
    channels=(256, 512, 1024, 2048),
)
LABELS = dict(
    batch='images in a batch',
    size='side of the images (pixels)',
    levels='levels of one link',
    links='links of one level',
    channels="channels of the backbones' last map",
)
SEVEN = ['ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Rotate', 'Cutout', 'Noise']
PATCHES = (4, 2, 1, 1, 1)
ADAPTER = dict(type='kd_mm.ConvAdapter')
DAFA = dict(type='kd_mm.DAFA', search_epochs=4, operators=SEVEN)
METHODS = ('FitNet', 'PKD', 'CWD', 'SoKD', 'DPK')


def stages(method: str, first: int, levels: int) -> tuple[list[dict], str]:
    """Stages and criterion of a method on some levels."""
    patch = list(PATCHES[first : first + levels])
    found = dict(
        FitNet=([ADAPTER], 'MSE'),
        PKD=([], 'PKD'),
        CWD=([], 'CWD'),
        SoKD=([DAFA, ADAPTER, dict(type='kd_mm.DAM')], 'MSE'),
        DPK=([dict(type='kd_mm.DPK', patch=patch)], 'MSE'),
    )
    return found[method]


def links(method: str, point: dict) -> dict[str, dict]:
    """As many as there are at a point, each with its levels of the neck."""
    found = {}
    for number in range(point['links']):
        levels = 1 if point['links'] > 1 else point['levels']
        own, criterion = stages(method, number, levels)
        link = dict(stages=own, criterion=dict(type=f'kd_mm.{criterion}Loss'))
        if point['channels']:
            tap = dict(student='backbone[3]', teacher='backbone[3]')
        else:
            chosen = list(range(number, number + levels))
            tap = dict(student='neck', teacher='neck', levels=chosen)
        found[f'link{number}'] = link | tap
    return found


def retinanet(depth: int, channels: int | None) -> dict:
    """A RetinaNet with a ResNet, of a given width of the last map."""
    model, _ = load_model_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    model = copy.deepcopy(model)
    model.backbone.update(depth=depth, frozen_stages=-1)
    last = channels or (512 if depth == 18 else 2048)
    if channels:
        model.backbone.base_channels = channels // 32
    model.neck.in_channels = [last // 8, last // 4, last // 2, last]
    return model


def config(method: str, point: dict) -> Config:
    """One method at one point."""
    channels = point['channels']
    model = dict(
        type='kd_mm.Distill',
        student=retinanet(50 if channels else 18, channels),
        teacher=dict(config=retinanet(50, channels)),
        links=links(method, point),
    )
    return Config(dict(model=model, default_scope='mmdet'))


def run(axis: str, value: int, *, device: str, repeats: int) -> list[dict]:
    """All methods at one point of one axis."""
    point = BASE | {axis: value}
    if axis in ('links', 'channels'):
        point['levels'] = 1
    data = random_batch(point['batch'], (point['size'],) * 2, device)
    every = {m: Bench(config(m, point), data=data, device=device) for m in METHODS}
    first = every[METHODS[0]]
    variants = dict(student=lambda: first.step(first.plain), teacher=first.teacher)
    for method, bench in every.items():
        variants[method] = lambda b=bench: b.step(b.distilled)
    seconds = measure(variants, repeats=repeats, device=device)
    rows = []
    for method in METHODS:
        each = ratios(seconds[method], seconds['student'], seconds['teacher'])
        low, middle, high = (round(q, 3) for q in statistics.quantiles(each, n=4))
        rows.append(
            dict(
                axis=axis,
                value=value,
                method=method,
                overhead=middle,
                low=low,
                high=high,
                student_ms=milliseconds(seconds['student']),
                teacher_ms=milliseconds(seconds['teacher']),
                distilled_ms=milliseconds(seconds[method]),
                device=device,
            )  # fmt: skip
        )
    return rows


def draw(rows: list[dict], path: Path) -> None:
    """A panel for every axis."""
    figure, axes = plt.subplots(
        1, len(SWEEPS), figsize=(3.4 * len(SWEEPS), 3.4), layout='constrained',
        sharey=True,
    )  # fmt: skip
    for axis, panel in zip(SWEEPS, axes, strict=True):
        for method in METHODS:
            own = [r for r in rows if (r['axis'], r['method']) == (axis, method)]
            own.sort(key=lambda row: row['value'])
            middle = [row['overhead'] for row in own]
            below = [row['overhead'] - row['low'] for row in own]
            above = [row['high'] - row['overhead'] for row in own]
            places = range(len(own))
            panel.errorbar(
                places, middle, yerr=(below, above), marker='o', ms=3, label=method
            )
            panel.set_xticks(places, [row['value'] for row in own])
        panel.axhline(1, color='grey', lw=0.8)
        panel.set(xlabel=LABELS[axis])
        panel.grid(alpha=0.3)
    axes[0].set_ylabel('distilled step / (student + teacher)')
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--draw', action='store_true', help='measure nothing')
    args = parser.parse_args()
    MMLogger.get_instance('cost_growth', log_level='WARNING')
    result = ROOT / f'benchmarks/results/cost_growth_{args.device}.json'
    if not args.draw:
        rows = []
        for axis, values in SWEEPS.items():
            for value in values:
                new = run(axis, value, device=args.device, repeats=args.repeats)
                rows += new
                overheads = {row['method']: row['overhead'] for row in new}
                print(axis, value, overheads, flush=True)
        lines = ',\n '.join(json.dumps(row) for row in rows)
        result.write_text(f'[{lines}]\n')
    suffix = '' if args.device == 'cpu' else f'_{args.device}'
    draw(
        json.loads(result.read_text()),
        ROOT / f'docs/images/cost_growth{suffix}.png',
    )


if __name__ == '__main__':
    main()
