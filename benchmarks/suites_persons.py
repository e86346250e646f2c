"""Persons on photographs, a student from ImageNet weights or a trained one: plan.md."""

import dataclasses
from pathlib import Path

import controls  # noqa: F401  registers its stages
from digits_runs import ROOT
from mmengine.config import Config
from suites import ADAPTER, CWD, DAM_GT, Suite
from suites_teachers import SHARED
from suites_trained import ORDER, weights_of

STUDENT = ROOT / 'configs/kd/coco_s320/retinanet_mbv2_coco_s320.py'
TEACHER = ROOT / 'configs/kd/coco_s320/yolox_nano_coco_s320.py'
# One part of the gradient for every method, so that none is better for its weight.
SHARE = dict(target=0.5, falls_to=1.0)
BOUNDED = dict(target=0.9, falls_to=1.0, tolerance=0.1)
MSE = dict(type='kd_mm.MSELoss', weight=1.0)
PKD = dict(type='kd_mm.PKDLoss', weight=1.0)
DPK = dict(type='kd_mm.DPK', patch=[4, 2, 1], encoder=(64, 2, 4), decoder=(64, 1, 4))


def persons_config(
    folder: Path, *, seed: int, epochs: int, images: int, side: int
) -> Config:
    """RetinaNet on MobileNetV2, its neck as wide as the teacher's, one class."""
    cfg = Config.fromfile(STUDENT)
    root = f'{SHARED}/coco_s320/'
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.update(data_root=root, metainfo=dict(classes=('person',)))
        for step in loader.dataset.pipeline:
            if step.type == 'Resize':
                step.scale = (side, side)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = f'{root}annotations/instances_val.json'
    cfg.train_dataloader.dataset.indices = images
    weights = f'{SHARED}/weights/mobilenet_v2_imagenet_mmpretrain.pth'
    cfg.model.backbone.init_cfg.checkpoint = weights
    cfg.model.neck.out_channels = 64
    cfg.model.bbox_head.update(num_classes=1, in_channels=64, feat_channels=64)
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.param_scheduler[0].end = 50
    cfg.param_scheduler[1].update(T_max=epochs, eta_min=0)
    cfg.randomness = dict(seed=seed)
    cfg.work_dir, cfg.log_level = str(folder), 'WARNING'
    cfg.experiment_name = f'{folder.parent.name}-{folder.name}'
    return cfg


def persons_trained(folder: Path, *, seed: int, before: int, **setting) -> Config:
    """One student after ``before`` passes, for some more at two fifths of the rate."""
    about = setting | dict(epochs=before)
    start = persons_config(folder, seed=1000, **about)
    cfg = persons_config(folder, seed=seed, **setting)
    cfg.optim_wrapper.optimizer.lr *= 0.4
    cfg.load_from = weights_of('persons-trained', f'{before}', start)
    return cfg


def necks(*stages: dict, criterion: dict = MSE, share: dict = SHARE) -> dict:
    """One link between the levels that both have: strides 8, 16 and 32."""
    link = dict(student='neck', teacher='neck', levels=[0, 1, 2], share=dict(share))
    return dict(fpn=dict(link, stages=list(stages), criterion=criterion))


METHODS = {
    'alone': None,
    'FitNet': necks(ADAPTER),
    'FitNet + DAM': necks(ADAPTER, DAM_GT),
    'DPK': necks(DPK),
    'FitNet + fixed cells': necks(ADAPTER, dict(type='kd_mm.FixedCells')),
    'PKD': necks(criterion=PKD),
    'PKD + KCD': necks(dict(ORDER, share=False), criterion=PKD),
}
PERSONS = Suite(
    name='persons',
    about='YOLOX-nano to a light RetinaNet for persons, on photographs of 160 px',
    teacher=TEACHER,
    checkpoint=lambda: SHARED / 'weights/yolox_nano_coco_mmdet.pth',
    config=persons_config,
    methods=METHODS,
    metrics=dict(mAP='coco/bbox_mAP', mAP_50='coco/bbox_mAP_50'),
    base='alone',
    setting=dict(images=2274, side=160, epochs=2),
    trial_size=(160, 160),
)
PERSONS_TRAINED = dataclasses.replace(
    PERSONS,
    name='persons-trained',
    about='the same on a student that is trained already, at 256 px',
    config=persons_trained,
    methods={
        'alone': None,
        'auto_trained': dict(links='auto_trained'),
        # what auto_trained finds
        'the same, tolerance 0.1': necks(
            dict(type='kd_mm.ChannelAlign', share=True), criterion=CWD, share=BOUNDED
        ),
    },
    setting=dict(images=2274, side=256, before=6, epochs=1),
    trial_size=(256, 256),
)
