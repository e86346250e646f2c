"""Suites on what heads say, for benchmarks/gain.py: GFL and a DETR on the digits."""

from pathlib import Path

from digits_runs import ROOT, digits_config, metric, train
from mmengine.config import Config
from suites import CWD, PKD, Suite, neck

CONFIGS = ROOT / 'configs/kd/digits'
METRICS = dict(mAP='coco/bbox_mAP', mAP_50='coco/bbox_mAP_50')


def teacher(name: str, *, epochs: int, images: int = 1600) -> Path:
    """Weights of a digits teacher, trained in minutes if they are not there.

    Args:
        name (str): Of its config, without the suffix.
        epochs (int): How long it is trained.
        images (int): Training images. Defaults to all.
    """
    folder = ROOT / 'work_dirs/gain' / f'{name}_teacher'
    path = folder / f'epoch_{epochs}.pth'
    if not path.is_file():
        cfg = digits_config(
            folder,
            images=images,
            epochs=epochs,
            seed=1000,
            student=CONFIGS / f'{name}.py',
        )
        cfg.default_hooks.checkpoint.update(interval=epochs)
        print(f'the teacher {name}: {metric(train(cfg)):.2f}', flush=True)
    return path


# --- GFL: the records' host, on the digits -------------------------------------------
TAPS = [f'bbox_head.{b}_convs.0.activate@input' for b in ('cls', 'reg')]
REST = [
    [
        f'bbox_head.{b}_convs.0.activate',
        f'bbox_head.{b}_convs[1:]',
        f'bbox_head.gfl_{b}',
    ]
    for b in ('cls', 'reg')
]
REST[1].append('bbox_head.scales.{level}')
SAID = dict(
    type='kd_mm.HeadLoss',
    classes=dict(type='kd_mm.QFLLoss'),
    boxes=dict(type='kd_mm.LDLoss', tau=1.0, weight=4.0),
)
CROSSKD = dict(
    head=dict(
        student=TAPS,
        teacher=TAPS,
        stages=[
            dict(type='kd_mm.MatchMoments'),
            dict(type='kd_mm.CrossKD', rest=REST),
        ],
        criterion=SAID,
    )
)
LD = dict(
    boxes=dict(
        student='bbox_head[1]',
        teacher='bbox_head[1]',
        stages=[dict(type='kd_mm.BoxRegions', scale=4.0)],
        criterion=dict(type='kd_mm.LDLoss', weight=1.0),
    )
)
DIRECT = dict(head=dict(student='bbox_head', teacher='bbox_head', criterion=SAID))
GFL = {
    'alone': None,
    'CWD': neck(criterion=CWD),
    'PKD': neck(criterion=PKD),
    'LD': LD,
    'CrossKD': CROSSKD,
    'CrossKD + PKD': CROSSKD | neck(criterion=PKD),
    # the same losses between the two heads: is it the teacher's layers?
    'heads compared': DIRECT,
    'LD + PKD': LD | neck(criterion=PKD),
}


def gfl_config(folder: Path, **setting) -> Config:
    """The GFL student on the digits."""
    return digits_config(folder, student=CONFIGS / 'gfl_r18w16_digits.py', **setting)


# --- a small DETR ---------------------------------------------------------------------
QUERIES = dict(
    queries=dict(
        student='bbox_head',
        teacher='bbox_head',
        stages=[dict(type='kd_mm.MatchQueries', top_k=10)],
        criterion=dict(
            type='kd_mm.HeadLoss',
            classes=dict(type='kd_mm.QFLLoss', weight=2.0),
            boxes=[
                dict(type='kd_mm.BoxL1Loss', weight=5.0),
                dict(type='kd_mm.BoxLoss', form='cxcywh', weight=2.0),
            ],
        ),
    )
)
MEMORY = dict(encoder=dict(student='encoder', teacher='encoder', criterion=PKD))
DETR = {
    'alone': None,
    # at its shipped weight PKD has next to none of the gradient at the encoder
    'encoder features': MEMORY,
    'encoder features held at 0.8': dict(encoder=dict(MEMORY['encoder'], share=0.8)),
    'queries': QUERIES,
    'queries + encoder features': QUERIES | MEMORY,
}


def detr_config(folder: Path, **setting) -> Config:
    """The DINO student on the digits."""
    student = CONFIGS / 'dino_r18w16_digits.py'
    return digits_config(folder, student=student, **setting)


HEADS = [
    Suite(
        name='digits-gfl',
        about='GFL on handwritten digits over photographs',
        teacher=CONFIGS / 'gfl_r18w24_digits.py',
        checkpoint=lambda: teacher('gfl_r18w24_digits', epochs=16),
        config=gfl_config,
        methods=GFL,
        metrics=METRICS,
        base='alone',
        setting=dict(images=600, epochs=8),
    ),
    Suite(
        name='digits-detr',
        about='a small DINO on handwritten digits over photographs',
        teacher=CONFIGS / 'dino_r18w24_digits.py',
        checkpoint=lambda: teacher('dino_r18w24_digits', epochs=16),
        config=detr_config,
        methods=DETR,
        metrics=METRICS,
        base='alone',
        setting=dict(images=1600, epochs=6),
    ),
]
