"""Suites of students that are trained already, for benchmarks/gain.py: see plan.md."""

import copy
import dataclasses
from pathlib import Path

import controls  # noqa: F401  registers its stages
from combine import SEVEN, combine, hosts, snippet
from digits_runs import ROOT, digits_config, train
from mmengine.config import Config
from suites import (
    ADAPTER,
    CWD,
    DAFA_7,
    DAM_GT,
    DETECTION,
    DIGITS,
    DPK,
    MSE,
    PKD,
    neck,
)
from suites_cls import CIFAR10, cifar10_config, shortened


def weights_of(suite: str, name: str, cfg: Config) -> str:
    """Path of the student's weights after training ``cfg``, made if not there."""
    folder = ROOT / f'work_dirs/gain/{suite}/start-{name}'
    path = folder / f'epoch_{cfg.train_cfg.max_epochs}.pth'
    if not path.is_file():
        cfg.work_dir, cfg.experiment_name = str(folder), f'{suite}-start-{name}'
        cfg.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=1)
        train(cfg)
    return str(path)


# --- detection on the digits ----------------------------------------------------------
def digits_trained(
    folder: Path, *, seed: int, images: int, before: int, epochs: int
) -> Config:
    """The student after ``before`` epochs, for ``epochs`` more at half the rate."""
    start = digits_config(folder, images=images, epochs=before, seed=seed)
    cfg = digits_config(folder, images=images, epochs=epochs, seed=seed)
    cfg.optim_wrapper.optimizer.lr /= 2
    cfg.load_from = weights_of('digits-trained', f'{seed}-{images}-{before}', start)
    return cfg


# The students' channels mean something by now, so the map is fitted at the start, on
# every position; one for all levels, which share a head.
ORDER = dict(type='kd_mm.ChannelAlign', share=True, images=600)
RANDOM = dict(ORDER, transform='random')
DAFA_FT = dict(DAFA_7, start=0, search_epochs=2)

TRAINED_DIGITS = {
    'alone': None,
    'FitNet': DIGITS['FitNet'],
    'CWD': DIGITS['CWD'],
    'PKD': DIGITS['PKD'],
    'CWD + KCD': neck(ORDER, criterion=CWD),
    'CWD + random order': neck(RANDOM, criterion=CWD),
    'PKD + KCD': neck(ORDER, criterion=PKD),
    'PKD + random order': neck(RANDOM, criterion=PKD),
    'FitNet + DAM': neck(ADAPTER, DAM_GT),
    'FitNet + fixed cells': neck(ADAPTER, dict(type='kd_mm.FixedCells')),
    'FitNet weight 6': DIGITS['FitNet weight 6'],
    'FitNet + DAFA': neck(DAFA_FT, ADAPTER),
    'DPK dynamic': neck(DPK),
    'PKD + KCD + DAM': neck(ORDER, DAM_GT, criterion=PKD),
    'auto with CWD': DIGITS['auto with CWD'],
    'auto_trained': dict(links='auto_trained'),
    'CWD + KCD + DAFA': neck(ORDER, DAFA_FT, criterion=CWD),
    # what auto_trained finds, and a bound on the student's own loss
    'the same, tolerance 0.1': dict(
        fpn=dict(
            neck(dict(ORDER, images=5000), criterion=CWD)['fpn'],
            share=dict(target=0.9, falls_to=1.0, tolerance=0.1),
        )
    ),
}

DIGITS_TRAINED = dataclasses.replace(
    DETECTION,
    name='digits-trained',
    about='the same, on a student that is trained already',
    config=digits_trained,
    methods=TRAINED_DIGITS,
    base='alone',
    setting=dict(images=600, before=8, epochs=4),
)


# --- CIFAR-10 -------------------------------------------------------------------------
def short_cosine(cfg: Config, epochs: int, lr: float) -> Config:
    """A continuation: a small rate that falls to 0."""
    cfg.optim_wrapper.optimizer.lr = lr
    cfg.param_scheduler = dict(
        type='CosineAnnealingLR',
        T_max=epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    )
    return cfg


def cifar10_trained(folder: Path, *, seed: int, before: int, epochs: int) -> Config:
    """ResNet-20 after ``before`` epochs on the subset, for ``epochs`` more."""
    start = short_cosine(cifar10_config(folder, seed=seed, epochs=before), before, 0.05)
    cfg = short_cosine(cifar10_config(folder, seed=seed, epochs=epochs), epochs, 0.02)
    cfg.load_from = weights_of('cifar10-trained', f'{seed}-{before}', start)
    return cfg


def cifar10_public(folder: Path, *, seed: int, epochs: int) -> Config:
    """The public ResNet-20, for ``epochs`` more."""
    cfg = short_cosine(cifar10_config(folder, seed=seed, epochs=epochs), epochs, 0.01)
    cfg.load_from = str(ROOT / 'checkpoints/cifar10/resnet20.pth')
    return cfg


def last_map(*stages: dict, criterion: dict) -> dict:
    """One link between the last maps."""
    link = dict(student='backbone', teacher='backbone', criterion=criterion)
    return dict(map=dict(link, stages=copy.deepcopy(list(stages))))


def align(transform: str) -> dict:
    """KCD at the start, with scale and offset where the criterion sees them."""
    return dict(type='kd_mm.ChannelAlign', transform=transform)


CRITERIA = dict(
    CWD=snippet('cwd')['map']['criterion'],
    PKD=snippet('pkd')['map']['criterion'],
    MSE=MSE,
)
KINDS = ('random', 'bipartite', 'procrustes', 'ridge')


def trained_cifar10() -> dict[str, dict | None]:
    """Hosts without an adapter, every order before them, and the published hosts."""
    found = dict(alone=None, KD=CIFAR10.methods['KD'], FitNet=snippet('fitnet'))
    for name, criterion in CRITERIA.items():
        found[name] = last_map(criterion=criterion)
        for kind in KINDS:
            found[f'{name} + {kind}'] = last_map(align(kind), criterion=criterion)
    cwd = CRITERIA['CWD']
    fitnet = snippet('fitnet')
    found['FitNet + CWD'] = fitnet | dict(cwd=last_map(criterion=cwd)['map'])
    found['FitNet + CWD + bipartite'] = fitnet | dict(
        cwd=last_map(align('bipartite'), criterion=cwd)['map']
    )
    dafa = dict(type='kd_mm.DAFA', start=0, search_epochs=1, operators=SEVEN)
    found['FitNet + DAFA'] = dict(
        map=dict(fitnet['map'], stages=[dafa, *fitnet['map']['stages']])
    )
    found['FitNet + DAM'] = combine(fitnet, 'DAM')
    found['DPK small + KD'] = dict(
        links=shortened(snippet('dpk', 'dpk_small'), 4),
        optim_wrapper=snippet('dpk', 'dpk_small_optimizer'),
    )
    found['auto_trained'] = dict(links='auto_trained')
    bounded = dict(target=0.8, falls_to=1.0, tolerance=0.1)
    found['the same, tolerance 0.1'] = dict(  # what auto_trained finds
        features=last_map(align('bipartite'), criterion=CRITERIA['PKD'])['map']
        | dict(share=bounded),
        logits=snippet('kd', 'kd.links')['logits'] | dict(share=bounded),
    )
    return found


def public_cifar10() -> dict[str, dict | None]:
    """Three weights of three criteria, in three orders."""
    found: dict[str, dict | None] = dict(alone=None, KD=CIFAR10.methods['KD'])
    for name, criterion in CRITERIA.items():
        for share, times in (('/ 3', 1 / 3), ('', 1.0), ('x 3', 3.0)):
            own = dict(criterion, weight=criterion['weight'] * times)
            host = f'{name} {share}'.strip()
            found[host] = last_map(criterion=own)
            for kind in ('random', 'bipartite'):
                found[f'{host} + {kind}'] = last_map(align(kind), criterion=own)
    return found


CIFAR10_TRAINED = dataclasses.replace(
    CIFAR10,
    name='cifar10-trained',
    about='ResNet-56 to a ResNet-20 that is trained on the subset already',
    config=cifar10_trained,
    methods=trained_cifar10(),
    setting=dict(before=12, epochs=4),
)
CIFAR10_PUBLIC = dataclasses.replace(
    CIFAR10,
    name='cifar10-public',
    about='ResNet-56 to the public ResNet-20',
    config=cifar10_public,
    methods=public_cifar10(),
    setting=dict(epochs=3),
)


# --- images that the teacher does not know by heart -----------------------------------
def cifar10_cutmix(folder: Path, **setting) -> Config:
    """ResNet-20 from nothing, on images that are cut into one another."""
    cfg = cifar10_config(folder, **setting)
    augments = [dict(type='CutMix', alpha=1.0)]  # as MMPretrain's ImageNet recipes
    cfg.data_preprocessor.update(
        to_onehot=True, num_classes=10, batch_augments=dict(augments=augments)
    )
    return cfg


MIXED = ('alone', 'KD', 'KD tau 1', 'DPK on the last stage + KD', 'CWD', 'FitNet')
CIFAR10_CUTMIX = dataclasses.replace(
    CIFAR10,
    name='cifar10-cutmix',
    about='the same on images cut into one another, which the teacher has not seen',
    config=cifar10_cutmix,
    methods={name: CIFAR10.methods[name] for name in MIXED}
    | dict(DKD=shortened(hosts()['DKD'], 15)),
)
