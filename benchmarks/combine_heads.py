#!/usr/bin/env python
"""What heads say beside the other methods: builds every pair, trains a step.

    python benchmarks/combine_heads.py

`KCD`, `SoKD`, `DPK` and `PKD` are a second link, between the necks, as in the shipped
configs; `... inside` puts the stage into the head's own link.
"""

import copy
import math
from typing import Any

import torch
from combine import combine, outcome, save
from digits_runs import ROOT
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope
from steps import random_batch
from suites import ADAPTER, DAFA_7, DAM_GT, PKD, neck
from suites_heads import DIRECT, GFL, QUERIES

RESULT = ROOT / 'benchmarks/results/combinations_heads.json'
DIGITS = ROOT / 'configs/kd/digits'
ALIGN = dict(type='kd_mm.ChannelAlign', share=True)
SMALL_DPK = dict(type='kd_mm.DPK', encoder=(32, 1, 4), decoder=(32, 1, 4))
BESIDE = {
    'PKD': neck(criterion=PKD),
    'KCD': neck(ALIGN, criterion=PKD),
    'SoKD': neck(DAFA_7, ADAPTER, DAM_GT),
    'DPK': neck(SMALL_DPK),
}
INSIDE = ('KCD', 'DAFA', 'DAM', 'DPK')
REGIONS = dict(
    roi=dict(
        student='neck',
        teacher='neck',
        stages=[dict(type='kd_mm.TeacherRoIs', proposals=16)],
        criterion=dict(
            type='kd_mm.HeadLoss',
            classes=dict(type='kd_mm.QFLLoss'),
            boxes=dict(type='kd_mm.BoxL1Loss', weight=0.25),
        ),
    )
)


def scores() -> dict:
    """The class scores of all levels."""
    link = dict(student='bbox_head[0]', teacher='bbox_head[0]')
    return dict(classes=dict(link, criterion=dict(type='kd_mm.QFLLoss')))


def boxes() -> dict:
    """The boxes of all levels."""
    link = dict(student='bbox_head[1]', teacher='bbox_head[1]')
    loss = dict(type='kd_mm.BoxLoss', form='bins', bins=9)
    return dict(boxes=dict(link, criterion=loss))


def two_stage() -> dict:
    """A small Faster R-CNN of the digits' ten classes."""
    cfg = Config.fromfile(DIGITS / 'retinanet_r18w16_digits.py').model
    whole: Any = get_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py').model
    whole.backbone, whole.data_preprocessor = cfg.backbone, cfg.data_preprocessor
    whole.neck = dict(cfg.neck, num_outs=5, add_extra_convs=False, start_level=0)
    width = cfg.neck.out_channels
    whole.rpn_head.update(in_channels=width, feat_channels=width)
    whole.roi_head.bbox_roi_extractor.out_channels = width
    whole.roi_head.bbox_head.update(
        in_channels=width, fc_out_channels=64, num_classes=10
    )
    return whole


def networks(host: str) -> tuple[dict, dict]:
    """Student and teacher of a host."""
    if host == 'regions':
        return two_stage(), two_stage()
    kind = 'dino' if host == 'queries' else 'gfl'
    names = (f'{kind}_r18w16_digits.py', f'{kind}_r18w24_digits.py')
    student, teacher = (Config.fromfile(DIGITS / name).model for name in names)
    return student, teacher


HOSTS = {
    'scores': scores(),
    'boxes': boxes(),
    'LD': GFL['LD'],
    'heads compared': DIRECT,
    'CrossKD': GFL['CrossKD'],
    'queries': QUERIES,
    'regions': REGIONS,
}


def build(host: str, links: dict) -> torch.nn.Module:
    """A distilled student of the host's kind, its teacher of random weights."""
    student, teacher = networks(host)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(
            dict(
                type='kd_mm.Distill',
                student=student,
                teacher=dict(config=teacher, allow_random=True),
                links=copy.deepcopy(links),
                trial_size=(128, 128),
            )
        )


def trains(model: torch.nn.Module) -> bool:
    """Whether a step gives finite losses of all links, and gradients to the student."""
    model.init_weights()
    for link in model.distiller.links.values():
        link.schedule.warmup = 0
        for stage in link.stages:
            if hasattr(stage, 'fitted_at'):
                stage._mark(0)  # any map
    data = random_batch(2, (128, 128), 'cpu')
    losses = model.train()(*data, mode='loss')
    total, log = model.parse_losses(losses)
    total.backward()
    reached = sum(float(p.grad.abs().sum()) for p in model.backbone.parameters()
                  if p.grad is not None)  # fmt: skip
    said = {f'loss_kd_{name}' for name in model.distiller.links}
    return said <= log.keys() and math.isfinite(float(total)) and 0 < reached < math.inf


def cell(host: str, links: dict) -> str:
    """'yes', 'no effect' or 'refused'; 'fails' where a step does."""
    torch.manual_seed(0)
    made: list[torch.nn.Module] = []
    said, _ = outcome(lambda: made.append(build(host, links)))
    return 'fails' if made and not trains(made[0]) else said


def main() -> None:
    rows = []
    for host, links in HOSTS.items():
        row = dict(host=host)
        for name, more in BESIDE.items():
            row[name] = cell(host, links | more)
        for name in INSIDE:
            row[f'{name}_inside'] = cell(host, combine(links, name))
        rows.append(row)
        print(row, flush=True)
    save(RESULT, rows)


if __name__ == '__main__':
    MMLogger.get_instance('combine', log_level='WARNING')
    main()
