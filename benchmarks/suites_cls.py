"""Suites of classifiers for benchmarks/gain.py."""

import copy
import json
from pathlib import Path

import torch
from combine import CONFIGS, METHODS, RESULT, SEVEN, combine, hosts, snippet
from digits_runs import ROOT, metric, train
from mmengine.config import Config
from mmengine.registry import DATASETS
from suites import Suite
from torch.utils.data import Dataset

import kd_mm.utils.amp  # noqa: F401  registers the wrapper, and `kd_mm::`

FULL = 240  # epochs that the snippets' warm-ups and searches are made for


def shortened(links: dict, epochs: int) -> dict:
    """The same links with warm-up and search as long a part of a shorter training."""
    links = copy.deepcopy(links)
    for link in links.values():
        if 'schedule' in link:
            link['schedule']['warmup'] *= epochs / FULL
        for stage in link.get('stages', ()):
            if 'search_epochs' in stage:
                part = round(stage['search_epochs'] * epochs / FULL)
                stage['search_epochs'] = max(2, part)
    return links


def runtime(cfg: Config, folder: Path, *, seed: int, epochs: int) -> Config:
    """What all runs have in common: evaluated once, at the end, on the test images."""
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.val_dataloader = cfg.test_dataloader
    cfg.randomness = dict(seed=seed)
    cfg.work_dir = str(folder)
    cfg.experiment_name = f'{folder.parent.name}-{folder.name}'
    cfg.log_level = 'WARNING'
    cfg.default_hooks.logger.interval = 10
    return cfg


@DATASETS.register_module()
class Some(Dataset):
    """Images of a data set at equal distances: of files in which they lie by class."""

    def __init__(self, *, dataset: dict, images: int) -> None:
        self.dataset, self.images = DATASETS.build(dataset), images
        self.metainfo = self.dataset.metainfo

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> dict:
        return self.dataset[index * len(self.dataset) // self.images]


def in_half_precision(cfg: Config, images: int | None) -> None:
    """Take some of the images, if a number is given, and bf16 also on a CPU."""
    if images is not None:
        held = cfg.train_dataloader.dataset
        held.dataset = dict(type='mmengine.Some', dataset=held.dataset, images=images)
    if not torch.cuda.is_available():
        cfg.optim_wrapper.type = 'CPUAmpOptimWrapper'


# --- CIFAR-10, a subset of 10,000 training and 5,000 test images ----------------------
def cifar10_config(
    folder: Path, *, seed: int, epochs: int, images: int | None = None
) -> Config:
    """ResNet-20 in bf16, with the shape of the 240-epoch recipe over fewer epochs."""
    cfg = Config.fromfile(CONFIGS / 'cifar10/resnet20.py')
    in_half_precision(cfg, images)
    cfg.param_scheduler = dict(
        type='MultiStepLR',
        by_epoch=True,
        milestones=[epochs * step // FULL for step in (150, 180, 210)],
        gamma=0.1,
    )
    return runtime(cfg, folder, seed=seed, epochs=epochs)


# What the snippets were before they became the public recipes: rows of that time.
EARLIER = {
    key: hosts()[host]
    for key, host in (('KD 1 + 1', 'KD'), ('FitNet 1x1 weight 2', 'FitNet'))
} | {
    'PKD + KCD after an epoch': combine(hosts()['PKD'], 'KCD'),
    'FitNet 1x1 + SoKD': dict(
        map=dict(
            student='backbone',
            teacher='backbone',
            stages=[
                dict(type='kd_mm.DAFA', search_epochs=20, operators=SEVEN),
                dict(type='kd_mm.ConvAdapter', layers=3),
                dict(type='kd_mm.DAM'),
            ],
            criterion=dict(type='kd_mm.MSELoss', weight=2.0),
        )
    ),
    'AT last stage': dict(
        map=dict(
            student='backbone',
            teacher='backbone',
            criterion=dict(type='kd_mm.ATLoss', weight=1000.0),
        )
    ),
}


def cifar10_methods(epochs: int) -> dict[str, dict | None]:
    """The shipped snippets of ResNet-56 to ResNet-20, and what they were before."""
    links = {
        'KD': snippet('kd', 'kd.links'), 'FitNet': snippet('fitnet'),
        'AT': snippet('at'), 'PKD': snippet('pkd'), 'CWD': snippet('cwd'),
        'PKD + KCD': snippet('kcd'), 'FitNet + SoKD': snippet('sokd', 'sokd.cifar10'),
        'FitNet + PKD': snippet('fitnet') | dict(pkd=snippet('pkd')['map']),
        'DPK + KD': snippet('dpk', 'dpk.resnet56_resnet20'),
    } | EARLIER  # fmt: skip
    # both stages take a CPU hours: 256 tokens an image on the middle one
    links['DPK on the last stage + KD'] = {
        key: link for key, link in links['DPK + KD'].items() if key != 'middle'
    }
    links['KD + PKD'] = links['KD 1 + 1'] | links['PKD']
    links['DPK last stage earlier + KD'] = links['DPK on the last stage + KD']
    links['KD tau 1'] = {'logits': links['DPK + KD']['logits']}
    short = {key: shortened(link, epochs) for key, link in links.items()}
    # what the recipes say beside the links
    short['KD'] = dict(links=short['KD'], student=snippet('kd', 'kd.student'))
    for name in ('DPK + KD', 'DPK on the last stage + KD'):
        short[name] = dict(links=short[name], optim_wrapper=dpk_optimizer(epochs))
    return dict(alone=None) | short


def dpk_optimizer(epochs: int) -> dict:
    """DPK's own optimiser and clipping, its schedule as long a part of the training."""
    found = snippet('dpk', 'dpk_optimizer_cifar')
    warmup, cosine = found['paramwise_cfg']['distiller']['param_scheduler']
    warmup['end'] = cosine['begin'] = max(1, round(warmup['end'] * epochs / FULL))
    return found


CIFAR10 = Suite(
    name='cifar10',
    about='ResNet-56 to ResNet-20 on a subset of CIFAR-10',
    teacher=CONFIGS / 'cifar10/resnet56.py',
    checkpoint=lambda: ROOT / 'checkpoints/cifar10/resnet56.pth',
    config=cifar10_config,
    methods=cifar10_methods(15),
    metrics=dict(top1='accuracy/top1'),
    base='alone',
    setting=dict(epochs=15),
    trial_size=(32, 32),
    scale=1.0,
    guide=dict(dtype='bf16', channels_last=True),
)


# --- handwritten digits ---------------------------------------------------------------
DIGITS_TEACHER = CONFIGS / 'digits/resnet20.py'


def digits_cls_config(folder: Path, *, seed: int, images: int, epochs: int) -> Config:
    """The narrow ResNet-8."""
    cfg = Config.fromfile(CONFIGS / 'digits/resnet8.py')
    cfg.train_dataloader.dataset.dataset.indices = images
    cfg.param_scheduler.T_max = epochs
    return runtime(cfg, folder, seed=seed, epochs=epochs)


def digits_cls_teacher() -> Path:
    """Weights of the teacher, trained in seconds if they are not there."""
    folder = ROOT / 'work_dirs/gain/digits_cls/teacher'
    path = folder / 'epoch_30.pth'
    if not path.is_file():
        cfg = Config.fromfile(DIGITS_TEACHER)
        cfg = runtime(cfg, folder, seed=1000, epochs=30)
        found = metric(train(cfg), 'accuracy/top1', scale=1.0)
        print(f'the teacher: {found:.2f}', flush=True)
    return path


def digits_methods() -> dict[str, dict | None]:
    """Every host, alone and with each method that acts on it: see combine.py."""
    table = {row['host']: row for row in json.loads(RESULT.read_text())}
    found: dict[str, dict | None] = dict(alone=None)
    own = {host: shortened(links, epochs=30) for host, links in hosts().items()}
    for host, links in own.items():
        found[host] = links
        works = [name for name in METHODS if table[host][name] == 'yes']
        for name in ('KCD', 'SoKD' if 'SoKD' in works else 'DAFA', 'DPK'):
            if name in works:
                found[f'{host} + {name}'] = combine(links, *METHODS[name])
    for host in ('FitNet', 'CWD', 'PKD'):  # which of its parts is it?
        for name in ('DAFA', 'DAM'):
            found[f'{host} + {name}'] = combine(own[host], name)
    # a finer map, which DAM is made for, and its average as published
    finer = copy.deepcopy(own['FitNet'])
    finer['map'].update(student='backbone.layer2', teacher='backbone.layer2')
    for name, parts in {'': (), ' + DAM': ('DAM',), ' + SoKD': METHODS['SoKD']}.items():
        links = combine(finer, *parts)
        for stage in links['map']['stages']:
            stage.pop('normalise', None)
        found[f'FitNet at 8x8{name}'] = links
    for names in (('KCD', 'SoKD'), ('SoKD', 'DPK'), ('KCD', 'SoKD', 'DPK')):
        parts = [part for name in names for part in METHODS[name]]
        found[f'PKD + {" + ".join(names)}'] = combine(own['PKD'], *parts)
    return found


DIGITS_CLS = Suite(
    name='digits-cls',
    about='ResNet-20 to a narrow ResNet-8 on handwritten digits',
    teacher=DIGITS_TEACHER,
    checkpoint=digits_cls_teacher,
    config=digits_cls_config,
    methods=digits_methods(),
    metrics=dict(top1='accuracy/top1'),
    base='alone',
    setting=dict(images=300, epochs=30),
    trial_size=(16, 16),
    scale=1.0,
)
