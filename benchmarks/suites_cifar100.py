"""A teacher that does not know its images by heart: CIFAR-100, within reach of a CPU.

All 50,000 images teach the teacher; a part of them, for a few epochs, its student.
`python benchmarks/suites_cifar100.py` trains the teacher, where its weights are not in
`benchmarks/teachers`, in about three quarters of an hour.
"""

import copy
from pathlib import Path

import torch
from combine import CONFIGS, combine, snippet
from digits_runs import ROOT, metric, train
from mmengine.config import Config
from suites import MSE, Suite
from suites_cls import in_half_precision, runtime, shortened
from suites_trained import last_map, short_cosine

TEACHER = CONFIGS / 'cifar100/resnet20.py'
WEIGHTS = ROOT / 'benchmarks/teachers/resnet20_cifar100.pth'
TEACHER_EPOCHS, EPOCHS = 20, 8


def network(
    folder: Path, *, depth: int, seed: int, epochs: int, images: int | None = None
) -> Config:
    """A ResNet of three stages in bf16, one cosine of the recipe's rate."""
    cfg = Config.fromfile(TEACHER)
    cfg.model.backbone.depth = depth
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.dataset.dataset.type = 'kd_mm.RepackedCIFAR'
    in_half_precision(cfg, images)
    return runtime(short_cosine(cfg, epochs, 0.05), folder, seed=seed, epochs=epochs)


def teacher_weights() -> Path:
    """The teacher's weights, trained if they are not there."""
    if not WEIGHTS.is_file():
        folder = ROOT / 'work_dirs/gain/cifar100_small/teacher'
        cfg = network(folder, depth=20, seed=1000, epochs=TEACHER_EPOCHS)
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', max_keep_ckpts=1)
        cfg.resume = True
        runner = train(cfg)
        print(f'the teacher: {metric(runner, "accuracy/top1", scale=1.0):.2f}')
        WEIGHTS.parent.mkdir(exist_ok=True)
        torch.save(dict(state_dict=runner.model.state_dict()), WEIGHTS)
    return WEIGHTS


def held(links: dict) -> dict:
    """The same, every link at a share of 0.8 of the gradient, as 'auto' holds them."""
    links = copy.deepcopy(links)
    for link in links.values():
        link['share'] = dict(target=0.8, falls_to=1.0)
    return links


def methods() -> dict[str, dict | None]:
    """The published links of ResNet-56 to ResNet-20, and ours beside them."""
    pair = 'resnet56_resnet20'
    review = snippet('review', f'review.{pair}')
    review['review']['teacher'] = [
        name.replace('.8.', '.2.') for name in review['review']['teacher']
    ]
    crd = snippet('crd')
    crd['vector']['criterion']['images'] = 50_000  # a part of them keeps its numbers
    fitnet, pkd = snippet('fitnet'), snippet('pkd')
    sokd = snippet('sokd', 'sokd.cifar100')
    mse = last_map(criterion=MSE)
    links = {
        'FitNet': fitnet,
        'PKD': pkd,
        'CRD': crd,
        'ReviewKD': review,
        'DKD': snippet('dkd', f'dkd.{pair}'),
        'KD tau 1': {'logits': snippet('dpk', 'dpk_small')['logits']},
        'PKD + KCD': snippet('kcd'),
        'PKD + KCD after an epoch': combine(pkd, 'KCD'),
        'FitNet + SoKD': sokd,
        # SoKD's adapter and place, without its policy and its areas
        "FitNet, SoKD's adapter": dict(
            map=dict(sokd['map'], stages=[sokd['map']['stages'][1]])
        ),
        'MSE': mse,
        'MSE + SoKD stable': snippet('sokd_stable'),
    }  # fmt: skip
    found: dict[str, dict | None] = dict(alone=None)
    for name in ('kd', 'kd_standardised'):
        found[name.replace('kd', 'KD').replace('_', ' ')] = dict(
            links=snippet('kd', f'{name}.links'),
            student=snippet('kd', f'{name}.student'),
        )
    found |= {name: shortened(link, EPOCHS) for name, link in links.items()}
    small = shortened(snippet('dpk', 'dpk_small'), EPOCHS)
    for name, link in {'': small, ', share': held(small)}.items():
        found[f'DPK small + KD tau 1{name}'] = dict(
            links=link, optim_wrapper=snippet('dpk', 'dpk_small_optimizer')
        )
    for name in ('FitNet', 'PKD', 'PKD + KCD'):
        found[f'{name}, share'] = held(found[name])
    return found


CIFAR100_SMALL = Suite(
    name='cifar100-small',
    about='ResNet-20 to ResNet-8 on a part of CIFAR-100',
    teacher=TEACHER,
    checkpoint=teacher_weights,
    config=lambda folder, **setting: network(folder, depth=8, **setting),
    methods=methods(),
    metrics=dict(top1='accuracy/top1'),
    base='alone',
    setting=dict(images=20_000, epochs=EPOCHS),
    trial_size=(32, 32),
    scale=1.0,
    guide=dict(dtype='bf16', channels_last=True),
)

if __name__ == '__main__':
    torch.set_num_threads(1)
    teacher_weights()
