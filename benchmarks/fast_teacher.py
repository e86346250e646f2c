#!/usr/bin/env python
"""What a faster teacher saves, and whether the student would notice.

    python benchmarks/fast_teacher.py                 # the default configs
    python benchmarks/fast_teacher.py configs/kd/my.py --device cuda

For every way to run the teacher: its forward pass over the plain one, and the distilled
step over the student's and the plain teacher's forward pass, in turns within one run.
Then what it changes, on eight batches: the relative error of its features, and the mean
change of the distillation loss over that loss's standard deviation from batch to batch.
Data and checkpoints of a config are used where they are there; else weights and images
are random, and the row says so.
"""

import argparse
import copy
import statistics
from pathlib import Path

import torch
from cost import ROOT
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table
from steps import Bench, measure, random_batch, ratio, ratios, store, student_config
from tables import refresh

from kd_mm.utils.kinds import default_scope

# config -> images in a step, and their size where they are random
DEFAULT = {
    'configs/kd_cls/cifar10/resnet56_resnet20_fitnet.py': (64, (32, 32)),
    'configs/kd/coco_s320/yolox_nano_femto_fitnet_coco_s320.py': (8, (320, 320)),
    'configs/kd/digits/retinanet_r18w24_r18w16_fitnet_digits.py': (8, (128, 128)),
    'configs/kd_cls/cifar100/resnet32x4_resnet8x4_fitnet.py': (64, (32, 32)),
    'configs/kd/retinanet_r101_r50_fitnet.py': (1, (320, 320)),
}
WAYS = {
    'plain': {},
    'channels_last': dict(channels_last=True),
    'bf16': dict(dtype='bf16'),
    'bf16, channels_last': dict(dtype='bf16', channels_last=True),
    'compile': dict(compile=True),
    'bf16, channels_last, compile': dict(
        dtype='bf16', channels_last=True, compile=True
    ),
}
BATCHES = 8


def real_batches(cfg: Config, device: str, batch_size: int) -> list | None:
    """Preprocessed training batches, None where data or teacher are not there."""
    checkpoint = cfg.model.teacher.get('checkpoint') or ''
    if not (ROOT / checkpoint).is_file():
        return None
    loader_cfg = cfg.train_dataloader.copy()
    loader_cfg.update(batch_size=batch_size, num_workers=0, persistent_workers=False)
    with default_scope(cfg):
        try:
            loader = Runner.build_dataloader(loader_cfg, seed=0)
        except FileNotFoundError:
            return None
        processor = MODELS.build(student_config(cfg)).data_preprocessor.to(device)
        batches = [processor(batch, True) for batch, _ in zip(loader, range(BATCHES))]
    return [(batch['inputs'], batch['data_samples']) for batch in batches]


def benches(
    cfg: Config, batches: list, *, device: str, random: bool
) -> dict[str, Bench]:
    """The same student beside every kind of teacher."""
    found: dict[str, Bench] = {}
    for way, options in WAYS.items():
        own = copy.deepcopy(cfg)
        own.model.teacher.update(options)
        torch.manual_seed(0)  # so that random teachers are one teacher
        found[way] = Bench(own, device=device, data=batches[0], random=random)
        found[way].distilled.load_state_dict(found['plain'].distilled.state_dict())
    return found


@torch.no_grad()
def seen(bench: Bench, batch: tuple) -> tuple[float, list[torch.Tensor]]:
    """The distillation loss on a batch, and the teacher's features."""
    bench.data = batch
    losses = bench.distilled(*batch, mode='loss')
    loss = sum(float(v) for k, v in losses.items() if k.startswith('loss_kd_'))
    calls = bench.teacher().calls.values()
    return loss, [feature for call in calls for feature in call[0]]


def differences(plain: Bench, fast: Bench, batches: list) -> dict[str, float]:
    """What the student gets to see of the other way."""
    losses, changes, errors = [], [], []
    for batch in batches:
        (loss, wanted), (other, got) = seen(plain, batch), seen(fast, batch)
        losses.append(loss)
        changes.append(abs(other - loss))
        errors += [
            float((g - w).norm() / w.norm()) for g, w in zip(got, wanted, strict=True)
        ]
    noise = statistics.stdev(losses)
    return dict(
        feature_error=f'{statistics.mean(errors):.1e}',
        loss_change_over_noise=f'{statistics.mean(changes) / noise:.1e}',
    )


def report(path: Path, args: argparse.Namespace) -> list[dict]:
    """One row for every way."""
    cfg = Config.fromfile(path)
    key = str(path.resolve().relative_to(ROOT))
    default = (cfg.train_dataloader.batch_size, cfg.model.get('trial_size', (256, 256)))
    count, size = DEFAULT.get(key, default)
    found = real_batches(cfg, args.device, count)
    batches = found or [random_batch(count, size, args.device) for _ in range(BATCHES)]
    every = benches(cfg, batches, device=args.device, random=found is None)
    plain = every['plain']
    variants = dict(student=lambda: plain.step(plain.plain))
    for way, bench in every.items():
        variants[f'teacher {way}'] = bench.teacher
        variants[f'distilled {way}'] = lambda b=bench: b.step(b.distilled)
    seconds = measure(variants, repeats=args.repeats, device=args.device)
    rows = []
    for way, bench in every.items():
        below = seconds['student'], seconds['teacher plain']
        teacher = ratios(seconds[f'teacher {way}'], seconds['teacher plain'])
        row = dict(
            config=path.stem,
            data='random' if found is None else 'real',
            batch=count,
            way=way,
            teacher_time=round(statistics.median(teacher), 3),
            step_over_student_and_plain_teacher=ratio(
                seconds[f'distilled {way}'], *below
            ),
        )
        if way != 'plain':
            row |= differences(plain, bench, batches)
        rows.append(row | dict(torch=torch.__version__, device=args.device))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('configs', nargs='*', help='default: a list of shipped ones')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--repeats', type=int, default=9)
    args = parser.parse_args()
    MMLogger.get_instance('fast_teacher', log_level='WARNING')
    result = ROOT / f'benchmarks/results/fast_teacher_{args.device}.json'
    table = Table('config', 'way', 'teacher', 'step', 'change / noise')
    for path in map(Path, args.configs or [ROOT / p for p in DEFAULT]):
        own = report(path, args)
        store(result, path.stem, own)
        for row in own:
            step = row['step_over_student_and_plain_teacher']
            change = row.get('loss_change_over_noise', '')
            table.add_row(path.stem, row['way'], str(row['teacher_time']), step, change)
            print(path.stem, row['way'], row['teacher_time'], step, change, flush=True)
    refresh()
    Console().print(table)


if __name__ == '__main__':
    main()
