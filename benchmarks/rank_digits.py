#!/usr/bin/env python
"""Does the probe of tools/rank_teachers.py foretell which teacher is best?

    python benchmarks/rank_digits.py           # 45 minutes on one core

Four teachers of growing width for one student on the digits: each probed with the
plain student's features, then distilled from in full by DPK, over three seeds. Rows and
seeds that are in the result file are not run again.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from digits_runs import ROOT, STUDENT, TEACHER, digits_config, distil, metric, train
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from scipy.stats import kendalltau, spearmanr
from suites import DPK, MSE
from tables import refresh

from kd_mm.analysis.teachers import collect, probe
from kd_mm.unaugmented import plain_loader

RESULT = ROOT / 'benchmarks/results/rank_digits.json'
FOLDER = ROOT / 'work_dirs/rank_digits'
WIDTHS = (8, 16, 24, 32)  # 24 is the teacher that ships
# Not one of the students': with the same seed the teacher of the student's width would
# start from the student's own weights, and CKA sees that long after.
TEACHER_SEED = 100


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


def plain(
    width: int, *, images: int, epochs: int, seed: int
) -> tuple[Path, float | None]:
    """Checkpoint of a plain network, trained if it is not there, and its mAP."""
    if width == 24:
        return TEACHER.with_suffix('.pth'), None
    return trained(width, images=images, epochs=epochs, seed=seed)


def trained(width: int, *, images: int, epochs: int, seed: int) -> tuple[Path, float]:
    """The same of a network that does not ship."""
    folder = FOLDER / f'plain-w{width}-{images}-{epochs}-seed{seed}'
    done = folder / 'done.json'
    if not done.is_file():
        cfg = digits_config(folder, images=images, epochs=epochs, seed=seed)
        cfg.model = Config.fromfile(config_of(width, FOLDER)).model
        cfg.default_hooks.checkpoint.max_keep_ckpts = 1
        done.write_text(json.dumps(metric(train(cfg))))
    return folder / f'epoch_{epochs}.pth', json.loads(done.read_text())


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


def distilled(
    width: int, checkpoint: Path, *, images: int, epochs: int, seed: int
) -> float:
    """mAP of the student that DPK distils from one teacher."""
    folder = FOLDER / f'from-w{width}-{images}-{epochs}-seed{seed}'
    cfg = digits_config(folder, images=images, epochs=epochs, seed=seed)
    cfg.default_hooks.checkpoint = None
    teacher = dict(config=str(config_of(width, FOLDER)), checkpoint=str(checkpoint))
    distil(cfg, teacher=teacher, stages=[DPK], criterion=MSE)
    return round(float(metric(train(cfg))), 2)


def agreement(rows: list[dict]) -> list[dict]:
    """Rank correlation of what is known beforehand with the students' mean mAP.

    1: the teacher that is rated best has the best student, and so on; for the error
    the lowest is rated best.
    """
    means = [row['student_mAP'] for row in rows]
    out = []
    for key, sign in (('error', -1), ('cka', 1), ('own_mAP', 1)):
        rated = [sign * row[key] for row in rows]
        out.append(
            dict(
                rated_by=key,
                spearman=round(float(spearmanr(rated, means).statistic), 2),
                kendall=round(float(kendalltau(rated, means).statistic), 2),
            )
        )
    return out


def save(path: Path, rows: list[dict]) -> None:
    """Write the rows; with the agreement, once there is something to rank."""
    for row in rows:
        if row['students']:
            mean = sum(row['students']) / len(row['students'])
            row['student_mAP'] = round(mean, 2)
    complete = [row for row in rows if row['students']]
    content = dict(teachers=rows)
    if len(complete) > 2:
        content['agreement'] = agreement(complete)
    path.write_text(json.dumps(content, indent=1) + '\n')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--widths', type=int, nargs='+', default=WIDTHS)
    parser.add_argument('--students', type=int, default=3, help='of a teacher')
    parser.add_argument('--images', type=int, default=600, help='of the students')
    parser.add_argument('--teacher-images', type=int, default=1600)
    parser.add_argument('--epochs', type=int, default=8)
    parser.add_argument('--result', type=Path, default=RESULT)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    rows: list[dict] = []
    if args.result.is_file():
        rows = json.loads(args.result.read_text())['teachers']
    short = dict(images=args.images, epochs=args.epochs)
    student, _ = trained(16, seed=0, **short)
    for width in args.widths:
        name = f'R18, width {width}'
        checkpoint, own = plain(
            width, images=args.teacher_images, epochs=args.epochs, seed=TEACHER_SEED
        )
        row = next((r for r in rows if r['teacher'] == name), None)
        if row is None:
            own = shipped_metric() if own is None else own
            row = dict(teacher=name, own_mAP=round(own, 2))
            row |= rate(width, checkpoint, student) | dict(students=[])
            rows.append(row)
            rows.sort(key=lambda row: int(row['teacher'].split()[-1]))
        for seed in range(len(row['students']), args.students):
            row['students'].append(distilled(width, checkpoint, seed=seed, **short))
            save(args.result, rows)
            print(row, flush=True)
    save(args.result, rows)
    for line in json.loads(args.result.read_text()).get('agreement', []):
        print(line)
    if args.result == RESULT:
        refresh()


if __name__ == '__main__':
    main()
