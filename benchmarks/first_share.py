#!/usr/bin/env python
"""How much of the gradient each published link has at its first step.

    python benchmarks/first_share.py

ResNet-56 to ResNet-20 on 128 training images of the CIFAR-10 subset, for a student that
starts from nothing and for the public one (checkpoints/cifar10, data/cifar10). Rows go
to benchmarks/results/first_share.json, the table to docs/results/classification.md.
"""

import json

import torch
from combine import CONFIGS, snippet
from digits_runs import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from tables import refresh

from kd_mm.stages import ChannelAlign
from kd_mm.stages.kcd import fit_channels

RESULT = ROOT / 'benchmarks/results/first_share.json'
WEIGHTS = ROOT / 'checkpoints/cifar10'
PAIR = 'resnet56_resnet20'
LINKS = {
    'KD': ('kd', 'kd.links'),
    'KD of z-scores': ('kd', 'kd_standardised.links'),
    'DKD': ('dkd', f'dkd.{PAIR}'),
    'DIST': ('dist', 'dist'),
    'FitNet': ('fitnet', 'links'),
    'FitNet without adapter': ('fitnet_plain', 'links'),
    'AT': ('at', 'links'),
    'SP': ('sp', 'links'),
    'PKD': ('pkd', 'links'),
    'CWD': ('cwd', 'links'),
    'MGD': ('mgd', f'mgd.{PAIR}'),
    'OFD': ('ofd', f'ofd.{PAIR}'),
    'ReviewKD': ('review', f'review.{PAIR}'),
    'PKD + KCD': ('kcd', 'links'),
    'SoKD': ('sokd', 'sokd.cifar10'),
    'SoKD stable': ('sokd_stable', 'links'),
    'DPK': ('dpk', f'dpk.{PAIR}'),
    'DPK small': ('dpk', 'dpk_small'),
}


def batch(cfg: Config, images: int) -> dict:
    """Some images of the training set, without augmentation."""
    loader = cfg.val_dataloader
    loader.batch_size, loader.dataset.dataset.split = images, 'train'
    loader.sampler.shuffle = True  # they lie class by class
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return next(iter(Runner.build_dataloader(loader, seed=0)))


def build(links: dict, trained: bool) -> torch.nn.Module:
    """A distilled ResNet-20 in training mode."""
    cfg = Config.fromfile(CONFIGS / 'cifar10/resnet20.py')
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(
            dict(
                type='kd_mm.Distill',
                student=dict(cfg.model, data_preprocessor=cfg.data_preprocessor),
                teacher=dict(
                    config=str(CONFIGS / 'cifar10/resnet56.py'),
                    checkpoint=str(WEIGHTS / 'resnet56.pth'),
                ),
                links=links,
                trial_size=(32, 32),
            )
        )
    model.init_weights()
    if trained:
        state = torch.load(WEIGHTS / 'resnet20.pth', weights_only=True)
        model.load_state_dict(state['state_dict'], strict=False)
    return model.train()


def shares(model: torch.nn.Module, data: dict) -> list[dict]:
    """Loss and share of every link in one step, past all warm-ups."""
    links = model.distiller.links
    aligned = [s for link in links.values() for s in link.stages]
    aligned = [stage for stage in aligned if isinstance(stage, ChannelAlign)]
    if aligned:
        fit_channels(model, aligned, [data])
    for link in links.values():
        link.schedule.warmup = 0
    done = model.data_preprocessor(data, True)
    total, log = model.parse_losses(model(**done, mode='loss'))
    total.backward()
    measured = model.distiller.shares
    return [
        dict(
            link=name,
            loss=round(sum(float(v) for k, v in log.items() if k.startswith(own)), 4),
            share=round(float(measured[name].value), 3),
        )
        for name in links
        for own in [f'loss_kd_{name}']
    ]


def main() -> None:
    rows = []
    data = batch(Config.fromfile(CONFIGS / 'cifar10/resnet20.py'), 128)
    for method, where in LINKS.items():
        found = {}
        for student in ('random', 'trained'):
            for row in shares(build(snippet(*where), student == 'trained'), data):
                kept = found.setdefault(
                    row['link'], dict(method=method, link=row['link'])
                )
                kept[f'loss_{student}'] = row['loss']
                kept[f'share_{student}'] = row['share']
        rows += found.values()
        print(*found.values(), sep='\n', flush=True)
    RESULT.write_text('[' + ',\n '.join(json.dumps(row) for row in rows) + ']\n')
    refresh()


if __name__ == '__main__':
    main()
