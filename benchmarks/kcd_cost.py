#!/usr/bin/env python
"""What the statistics of KCD cost beside the forward passes they are taken from.

    python benchmarks/kcd_cost.py            # about 3 minutes on one core

CPU time of both networks as far as the taps over batches in memory, without and with
each kind of statistics; the fastest of several rounds. Small networks are the hard
case: the statistics cost the same whatever the network in front of them.
"""

import json
import time

import torch
from digits_runs import ROOT
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope
from tables import refresh

from kd_mm.stages.kcd.fit import observe
from kd_mm.stages.kcd.moments import KINDS, LevelStatistics
from kd_mm.unaugmented import feature_pairs, plain_loader, undisturbed

RESULT = ROOT / 'benchmarks/results/kcd_cost.json'
CONFIGS = {
    'configs/kd/digits/retinanet_r18w24_r18w16_kcd_pkd_digits.py': 400,
    'configs/kd/coco_s320/yolox_nano_femto_fitnet_coco_s320.py': 200,
}
ROUNDS = 5


def seconds(model, batches: list[dict], kind: str | None) -> float:
    """One pass over the batches."""
    began = time.process_time()
    levels = None
    with undisturbed(model):
        for pairs in feature_pairs(model, batches, ['fpn'], title=kind or 'alone'):
            if kind:
                levels = levels or [
                    LevelStatistics([kind]) for _ in pairs['fpn'].student
                ]
                observe(levels, pairs['fpn'])
    for level in levels or []:
        level.covariance(kind)
    return time.process_time() - began


def main():
    torch.set_num_threads(1)
    rows = []
    for path, images in CONFIGS.items():
        cfg = Config.fromfile(ROOT / path)
        cfg.train_dataloader.num_workers = 0
        with DefaultScope.overwrite_default_scope('mmdet'):
            model = MODELS.build(cfg.model)
            dataset = DATASETS.build(cfg.train_dataloader.dataset)
            loader = plain_loader(cfg, dataset, images=images, annotations=True)
        batches = list(loader)
        best: dict[str | None, float] = {}
        for _ in range(ROUNDS):  # in turn: what else the machine does, it does to all
            for kind in (None, *KINDS):
                spent = seconds(model, batches, kind)
                best[kind] = min(best.get(kind, spent), spent)
        alone = best.pop(None)
        for kind, spent in best.items():
            rows.append(
                dict(
                    config=path.split('/')[-1].removesuffix('.py'),
                    similarity=kind,
                    images=images,
                    forward_ms=round(1000 * alone / images, 2),
                    extra_percent=round(100 * (spent / alone - 1), 1),
                )
            )
            print(rows[-1], flush=True)
    RESULT.write_text(json.dumps(rows, indent=1) + '\n')
    refresh()


if __name__ == '__main__':
    main()
