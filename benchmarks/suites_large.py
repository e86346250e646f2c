"""Suites for benchmarks/gain.py that want a GPU: CIFAR-100, and photographs of COCO."""

import copy
from pathlib import Path

import torch
from combine import CONFIGS, combine
from digits_runs import ROOT, train
from mmengine.config import Config
from suites import ADAPTER, DAFA_7, DAM_GT, Suite
from suites_cls import runtime

# --- CIFAR-100, the literature's recipe -----------------------------------------------
HOSTS = {
    'KD': 'kd', 'FitNet': 'fitnet', 'AT': 'at', 'SP': 'sp', 'CRD': 'crd',
    'ReviewKD': 'review', 'DKD': 'dkd', 'DIST': 'dist', 'PKD': 'pkd', 'CWD': 'cwd',
    'MGD': 'mgd', 'PKD + KCD': 'kcd', 'FitNet + SoKD': 'sokd', 'DPK + KD': 'dpk',
}  # fmt: skip


def cifar100_config(student: str, folder: Path, *, seed: int, epochs: int) -> Config:
    """A student; with fewer epochs than 240 its schedule keeps its shape."""
    cfg = Config.fromfile(CONFIGS / f'cifar100/{student}.py')
    for loader in (cfg.train_dataloader, cfg.test_dataloader):  # in any order of images
        loader.dataset.dataset.type = 'kd_mm.RepackedCIFAR'
    milestones = cfg.param_scheduler.milestones
    full = cfg.train_cfg.max_epochs
    cfg.param_scheduler.milestones = [epochs * step // full for step in milestones]
    return runtime(cfg, folder, seed=seed, epochs=epochs)


def cifar100_teacher(name: str) -> Path:
    """Weights of a teacher, trained by the same recipe where they are not there."""
    path = ROOT / f'checkpoints/cifar100/{name}.pth'
    if not path.is_file():
        folder = ROOT / f'work_dirs/gain/cifar100_teachers/{name}'
        cfg = cifar100_config(name, folder, seed=1000, epochs=240)
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', max_keep_ckpts=1)
        cfg.resume = True
        state = train(cfg).model.state_dict()
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(state_dict=state), path)
    return path


def cifar100(teacher: str, student: str) -> Suite:
    """One pair, every host that the shipped configs have for it."""

    def links(name: str) -> dict:
        path = CONFIGS / f'cifar100/{teacher}_{student}_{name}.py'
        return Config.fromfile(path).model.links.to_dict()

    methods = dict(alone=None) | {host: links(name) for host, name in HOSTS.items()}
    methods['KD + PKD'] = links('kd') | links('pkd')
    methods['KD + PKD + SoKD'] = links('kd') | combine(links('pkd'), 'DAFA', 'DAM')
    return Suite(
        name=f'cifar100-{teacher}-{student}',
        about=f'{teacher} to {student} on CIFAR-100, 240 epochs',
        teacher=CONFIGS / f'cifar100/{teacher}.py',
        checkpoint=lambda: cifar100_teacher(teacher),
        config=lambda folder, **setting: cifar100_config(student, folder, **setting),
        methods=methods,
        metrics=dict(top1='accuracy/top1'),
        base='alone',
        setting=dict(epochs=240),
        trial_size=(32, 32),
        scale=1.0,
    )


# --- photographs: a subset of COCO at 320 pixels --------------------------------------
COCO = ROOT / 'configs/kd/coco_s320'
STUDENTS = dict(femto='yolox_femto', retinanet_mbv2='retinanet_mbv2')


def coco_config(
    student: str, folder: Path, *, seed: int, epochs: int, images: int | None = None
) -> Config:
    """A student, evaluated once, at the end."""
    cfg = Config.fromfile(COCO / f'{STUDENTS[student]}_coco_s320.py')
    cfg.train_dataloader.dataset.indices = images
    cfg.param_scheduler[1].T_max = epochs
    return runtime(cfg, folder, seed=seed, epochs=epochs)


def coco(student: str, align: str) -> Suite:
    """One student of YOLOX-nano; FitNet's weight is the shipped config's."""
    shipped = Config.fromfile(COCO / f'yolox_nano_{student}_fitnet_coco_s320.py')
    fitnet = shipped.model.links.to_dict()

    def around(*stages: dict) -> dict:
        links = copy.deepcopy(fitnet)
        links['fpn']['stages'] = list(stages)
        return links

    dpk = dict(type='kd_mm.DPK', patch=[4, 2, 1], encoder=(64, 2, 4))
    dpk['decoder'] = (64, 1, 4)
    return Suite(
        name=f'coco-{student.replace("_", "-")}',
        about=f'YOLOX-nano to {student} on a subset of COCO at 320 px',
        teacher=COCO / 'yolox_nano_coco_s320.py',
        checkpoint=lambda: ROOT / 'data/weights/yolox_nano_coco_mmdet.pth',
        config=lambda folder, **setting: coco_config(student, folder, **setting),
        methods={
            'alone': None,
            'FitNet': fitnet,
            'KCD + FitNet without adapter': around(
                dict(type='kd_mm.ChannelAlign', transform=align, share=False)
            ),
            'FitNet + SoKD': around(DAFA_7, ADAPTER, DAM_GT),
            'DPK': around(dpk),
        },
        metrics=dict(mAP='coco/bbox_mAP', mAP_50='coco/bbox_mAP_50'),
        base='alone',
        setting=dict(epochs=12),
        trial_size=(320, 320),
    )


LARGE = (
    cifar100('resnet32x4', 'resnet8x4'),
    cifar100('resnet56', 'resnet20'),
    coco('femto', 'grouped'),
    coco('retinanet_mbv2', 'bipartite'),
)
