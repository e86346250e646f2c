#!/usr/bin/env python
"""Does the probe of tools/rank_teachers.py foretell which teacher is best?

    python benchmarks/rank_digits.py           # half an hour on one core

Three teachers of growing width for one student on the digits: each probed with the
plain student's features, then distilled from in full by DPK, over three seeds.
"""

import json
import time
from pathlib import Path

import torch
from digits_runs import ROOT, STUDENT, TEACHER, digits_config, distil, metric, train
from dpk_digits import METHODS
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from scipy.stats import kendalltau
from tables import refresh

from kd_mm.analysis.fit import plain_loader
from kd_mm.analysis.teachers import collect, probe

RESULT = ROOT / 'benchmarks/results/rank_digits.json'
FOLDER = ROOT / 'work_dirs/rank_digits'
WIDTHS = (8, 16, 24)  # 24 is the teacher that ships
SEEDS = range(3)


def config_of(width: int, folder: Path) -> Path:
    """Config file of a plain RetinaNet on ResNet-18 of some width."""
    if width == 24:
        return TEACHER
    path = folder / f'w{width}.py'
    if not path.is_file():
        cfg = Config.fromfile(STUDENT)
        cfg.model.backbone.base_channels = width
        cfg.model.neck.in_channels = [width * 2**i for i in range(4)]
        path.parent.mkdir(parents=True, exist_ok=True)
        cfg.dump(path)
    return path


def plain(width: int, *, images: int, seed: int) -> tuple[Path, float | None]:
    """Checkpoint of a plain network, trained if it is not there, and its mAP."""
    if width == 24:
        return TEACHER.with_suffix('.pth'), None
    folder = FOLDER / f'plain-w{width}-{images}'
    done = folder / 'done.json'
    if not done.is_file():
        cfg = digits_config(folder, images=images, epochs=8, seed=seed)
        cfg.model = Config.fromfile(config_of(width, FOLDER)).model
        cfg.default_hooks.checkpoint.max_keep_ckpts = 1
        done.write_text(json.dumps(metric(train(cfg))))
    return folder / 'epoch_8.pth', json.loads(done.read_text())


def shipped_metric() -> float:
    """mAP of the teacher that ships."""
    done = FOLDER / 'shipped.json'
    if not done.is_file():
        cfg = digits_config(FOLDER / 'shipped', images=600, epochs=1, seed=0)
        cfg.model = Config.fromfile(TEACHER).model
        cfg.load_from = str(TEACHER.with_suffix('.pth'))
        from mmengine.runner import Runner

        value = Runner.from_cfg(cfg).test()['coco/bbox_mAP']
        done.write_text(json.dumps(100 * value))
    return json.loads(done.read_text())


def rate(width: int, checkpoint: Path, student: Path) -> dict:
    """The probe, from the plain student's features."""
    cfg = digits_config(FOLDER / 'probe', images=600, epochs=1, seed=0)
    teacher = dict(config=str(config_of(width, FOLDER)), checkpoint=str(checkpoint))
    distil(cfg, teacher=teacher, stages=[], criterion=dict(type='kd_mm.ATLoss'))
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
        load_checkpoint(model, str(student), map_location='cpu')
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        loader = plain_loader(cfg, dataset, images=500, annotations=False)
        batches = collect(model, loader)
    began = time.time()
    error, alike, ratio = probe(batches, steps=300, seed=0, device=torch.device('cpu'))
    return dict(
        error=round(error, 4),
        cka=round(alike, 4),
        ratio=round(ratio, 4),
        probe_seconds=round(time.time() - began, 1),
    )


def distilled(width: int, checkpoint: Path, seed: int) -> float:
    """mAP of the student that DPK distils from one teacher."""
    cfg = digits_config(
        FOLDER / f'from-w{width}-{seed}', images=600, epochs=8, seed=seed
    )
    cfg.default_hooks.checkpoint = None
    teacher = dict(config=str(config_of(width, FOLDER)), checkpoint=str(checkpoint))
    distil(cfg, teacher=teacher, **METHODS['DPK dynamic'])
    return round(metric(train(cfg)), 2)


def main() -> None:
    torch.set_num_threads(1)
    rows = json.loads(RESULT.read_text()) if RESULT.is_file() else []
    student, _ = plain(16, images=600, seed=0)
    for width in WIDTHS:
        checkpoint, own = plain(width, images=1600, seed=0)
        row = next((r for r in rows if r['teacher'] == f'R18, width {width}'), None)
        if row is None:
            own = shipped_metric() if own is None else own
            row = dict(teacher=f'R18, width {width}', own_mAP=round(own, 2))
            row |= rate(width, checkpoint, student) | dict(students=[])
            rows.append(row)
        for seed in SEEDS[len(row['students']) :]:
            row['students'].append(distilled(width, checkpoint, seed))
            RESULT.write_text(json.dumps(rows, indent=1) + '\n')
            print(row, flush=True)
    means = [sum(r['students']) / len(r['students']) for r in rows]
    for row, mean in zip(rows, means, strict=True):
        row['student_mAP'] = round(mean, 2)
    RESULT.write_text(json.dumps(rows, indent=1) + '\n')
    for key, sign in (('error', -1), ('cka', 1), ('own_mAP', 1)):
        tau = kendalltau([sign * r[key] for r in rows], means).statistic
        print(f'Kendall tau of the students with {key}: {tau:+.2f}')
    refresh()


if __name__ == '__main__':
    main()
