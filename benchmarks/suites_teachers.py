"""Suites about teachers for benchmarks/gain.py: halves of the classes, a poisoned one,
the student's own average, few labels, and ImageNet weights on photographs."""

import copy
import dataclasses
import os
from pathlib import Path

import torch
from digits_runs import DATA, ROOT, TEACHER, digits_config, train
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.registry import MODELS, TRANSFORMS
from suites import ADAPTER, DETECTION, DIGITS, Suite, head, neck
from suites_trained import weights_of
from torch import Tensor, nn

HALVES = dict(low=[0, 1, 2, 3, 4], high=[5, 6, 7, 8, 9])


# --- two teachers of half the classes, and a poisoned one -----------------------------
@TRANSFORMS.register_module()
class KeepClasses(BaseTransform):
    """Leave the boxes of some classes only; what else is there becomes background."""

    def __init__(self, classes: list[int]) -> None:
        self.classes = classes

    def transform(self, results: dict) -> dict:
        kept = [int(label) in self.classes for label in results['gt_bboxes_labels']]
        for key in ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags'):
            results[key] = results[key][kept]
        return results


def half_teacher(half: str) -> dict:
    """The suite's teacher, trained on the labels of half of the classes."""
    path = ROOT / f'work_dirs/gain/teachers/{half}.pth'
    if not path.is_file():
        cfg = digits_config(path.with_suffix(''), images=1600, epochs=16, seed=1000)
        cfg.model = Config.fromfile(TEACHER).model
        keep = dict(type='mmengine.KeepClasses', classes=HALVES[half])
        cfg.train_dataloader.dataset.pipeline.insert(2, keep)
        cfg.default_hooks.checkpoint = None
        state = train(cfg).model.state_dict()
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(state_dict=state), path)
    return dict(config=str(TEACHER), checkpoint=str(path))


def low() -> dict:
    return half_teacher('low')


def high() -> dict:
    return half_teacher('high')


def full() -> dict:
    return dict(config=str(TEACHER), checkpoint=str(TEACHER.with_suffix('.pth')))


def poisoned() -> dict:
    """A teacher of the same kind that knows nothing."""
    return dict(config=str(TEACHER), allow_random=True)


KD = DIGITS['KD']['logits']['criterion']
LOGITS = 'bbox_head[0]'


def merged(*names: str, by: str = 'certain') -> dict:
    """One link between the logits of the student and of several teachers."""
    stage = dict(type='kd_mm.MergeTeachers', by=by, sigmoid=True, classes=10)
    if by == 'mean':
        stage = dict(type='kd_mm.MergeTeachers')
    own = dict(student=LOGITS, teacher=[f'{name}:{LOGITS}' for name in names])
    return dict(logits=dict(own, stages=[stage], criterion=KD))


def each(*names: str, **more) -> dict:
    """A link between the logits for each of several teachers."""
    found = {}
    for name in names:
        own = head(KD)['logits']
        found[name] = dict(own, teacher=f'{name}:{LOGITS}', **more)
    return found


def necks(*names: str, **more) -> dict:
    """A FitNet link for each of several teachers."""
    found = {}
    for name in names:
        found[name] = dict(neck(ADAPTER)['fpn'], teacher=f'{name}:neck', **more)
    return found


TWO = dict(low=low, high=high)
BAD = dict(full=full, bad=poisoned)
TEACHERS = {
    'alone': None,
    'KD all classes': dict(links=head(KD)),
    'KD low': dict(links=head(KD), teacher=low),
    'KD high': dict(links=head(KD), teacher=high),
    'KD both, a link each': dict(links=each('low', 'high'), teacher=TWO),
    'KD both, the mean': dict(links=merged('low', 'high', by='mean'), teacher=TWO),
    'KD both, the certain': dict(links=merged('low', 'high'), teacher=TWO),
    'FitNet all classes': dict(links=neck(ADAPTER)),
    'FitNet low': dict(links=neck(ADAPTER), teacher=low),
    'FitNet high': dict(links=neck(ADAPTER), teacher=high),
    'FitNet both': dict(links=necks('low', 'high'), teacher=TWO),
    'KD poisoned': dict(links=head(KD), teacher=poisoned),
    'KD + poisoned, a link each': dict(links=each('full', 'bad'), teacher=BAD),
    'KD + poisoned, the certain': dict(links=merged('full', 'bad'), teacher=BAD),
    'FitNet poisoned': dict(links=neck(ADAPTER), teacher=poisoned),
    'FitNet + poisoned': dict(links=necks('full', 'bad'), teacher=BAD),
    'FitNet + poisoned, shares': dict(
        links=necks('full', share=0.5) | necks('bad', share=0.25), teacher=BAD
    ),
    'FitNet + poisoned, shares, stopped': dict(
        links=necks('full', share=0.5)
        | necks('bad', share=dict(target=0.25, stop_after=1)),
        teacher=BAD,
    ),
    'FitNet average of the student': dict(links=neck(), teacher=lambda: 'ema'),
    'FitNet all + average': dict(
        links=necks('full') | dict(mean=dict(neck()['fpn'], teacher='mean:neck')),
        teacher=dict(full=full, mean=lambda: 'ema'),
    ),
    'deeper part': dict(
        links=dict(
            self=dict(
                student='backbone.layer3',
                teacher='backbone.layer4',
                stages=[dict(type='kd_mm.Resize', side='teacher'), ADAPTER],
                criterion=dict(type='kd_mm.MSELoss', weight=2.0),
            )
        ),
        teacher=lambda: 'self',
    ),
}
DIGITS_TEACHERS = dataclasses.replace(
    DETECTION,
    name='digits-teachers',
    about='the digits by teachers of half the classes, poisoned ones, and itself',
    methods=TEACHERS,
    base='alone',
)


# --- few labels -----------------------------------------------------------------------
POOL, LABELLED = 1600, 600  # images of the set; as many are trained on in a pass


def few_labels(folder: Path, *, seed: int, images: int, epochs: int) -> Config:
    """As many steps whatever the number of labelled images."""
    times = LABELLED // images
    cfg = digits_config(folder, images=images, epochs=epochs * times, seed=seed)
    return cfg


def the_rest(*, images: int, **_) -> dict:
    """A loader of the images whose labels are not used."""
    cfg = digits_config(ROOT / 'work_dirs', images=images, epochs=1, seed=0)
    loader = copy.deepcopy(cfg.train_dataloader.to_dict())
    dataset = loader['dataset']
    dataset['indices'] = list(range(images, POOL))
    dataset['filter_cfg'] = dict(filter_empty_gt=False)
    steps = dataset['pipeline']
    dataset['pipeline'] = [s for s in steps if s['type'] != 'LoadAnnotations']
    return loader


FEW = {
    'alone': None,
    'FitNet': dict(links=neck(ADAPTER)),
    'FitNet, all images': dict(links=neck(ADAPTER), unlabelled=the_rest),
    'KD': dict(links=head(KD)),
    'KD, all images': dict(links=head(KD), unlabelled=the_rest),
    'FitNet + KD, all images': dict(
        links=neck(ADAPTER) | head(KD), unlabelled=the_rest
    ),
}
DIGITS_FEW = dataclasses.replace(
    DETECTION,
    name='digits-few',
    about='few labelled digits (--images 25 50 100 600), the rest without labels',
    config=few_labels,
    methods=FEW,
    base='alone',
)


# --- ImageNet weights on photographs that nobody labelled -----------------------------
# as tests/conftest.py looks for them
FOLDERS = (os.environ.get('KD_MM_TEST_DATA'), ROOT / 'data', ROOT / '../shared/data')
SHARED = next(
    (Path(f) for f in FOLDERS if f and (Path(f) / 'coco_s320').is_dir()), DATA
)
COCO_STUDENT = ROOT / 'configs/kd/coco_s320/yolox_femto_coco_s320.py'
PERSONS = ROOT / 'configs/kd/coco_s320/yolox_femto_person_coco_s320.py'


@MODELS.register_module()
class NoTask(nn.Module):
    """A head that asks for nothing: what is left to learn are the links."""

    def loss(self, features: tuple[Tensor, ...], samples: list) -> dict[str, Tensor]:
        return dict(loss=sum(feature.sum() for feature in features) * 0)


def coco_config(
    folder: Path, *, seed: int, images: int, epochs: int, student: Path = PERSONS
) -> Config:
    """A small YOLOX on some labelled photographs, evaluated once, at the end."""
    cfg = Config.fromfile(student)
    root = f'{SHARED}/coco_s320/'
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = root
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = f'{root}annotations/instances_val.json'
    cfg.train_dataloader.dataset.indices = images
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.param_scheduler[1].T_max = epochs
    cfg.param_scheduler[0].end = 50
    cfg.randomness = dict(seed=seed)
    cfg.work_dir, cfg.log_level = str(folder), 'WARNING'
    cfg.experiment_name = f'{folder.parent.name}-{folder.name}'
    return cfg


def pretrained(kind: str, seed: int, passes: int = 8) -> str:
    """Weights of the backbone after ``passes`` over all photographs without labels."""
    cfg = coco_config(
        ROOT / 'work_dirs', seed=seed, images=2274, epochs=passes, student=COCO_STUDENT
    )
    loader = cfg.train_dataloader
    steps = [s for s in loader.dataset.pipeline if s.type != 'LoadAnnotations']
    loader.dataset.update(pipeline=steps, filter_cfg=dict(filter_empty_gt=False))
    student = dict(
        type='mmpretrain.ImageClassifier',
        data_preprocessor=cfg.model.data_preprocessor,
        backbone=dict(cfg.model.backbone, type='mmdet.CSPDarknet'),
        head=dict(type='mmengine.NoTask'),
    )
    link = dict(
        student='backbone[2]',
        teacher='backbone',
        stages=[ADAPTER],
        criterion=dict(type='kd_mm.CosineLoss', weight=10.0),
    )
    if kind == 'patches':
        criterion = dict(type='kd_mm.PatchSimilarityLoss', weight=100.0)
        link.update(stages=[], criterion=criterion)
    cfg.model = dict(
        type='kd_mm.Distill',
        student=student,
        teacher=dict(
            config='mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py',
            checkpoint=str(SHARED / 'weights/mobilenet_v2_imagenet_mmpretrain.pth'),
        ),
        links=dict(map=link),
        trial_size=(320, 320),
    )
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None
    return weights_of('coco-unlabelled', f'{kind}-{seed}', cfg)


def from_weights(kind: str):
    """What starts the student's backbone from weights that saw no label."""

    def change(seed: int) -> dict:
        init = dict(
            type='Pretrained', checkpoint=pretrained(kind, seed), prefix='backbone.'
        )
        return dict(backbone=dict(init_cfg=init))

    return change


COCO_UNLABELLED = Suite(
    name='coco-unlabelled',
    about='photographs without labels with MobileNetV2, then persons on some of them',
    teacher=PERSONS,
    checkpoint=lambda: PERSONS,
    config=coco_config,
    methods={
        'alone': None,
        'cosine, then alone': dict(student=from_weights('cosine')),
        'patches, then alone': dict(student=from_weights('patches')),
    },
    metrics=dict(mAP='coco/bbox_mAP', mAP_50='coco/bbox_mAP_50'),
    base='alone',
    setting=dict(images=200, epochs=48),
    trial_size=(320, 320),
)
