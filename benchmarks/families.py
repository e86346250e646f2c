#!/usr/bin/env python
"""Distils one model of every packaged config family and writes docs/families.md.

    python benchmarks/families.py                     # what has no row yet
    python benchmarks/families.py mmdet/dino --again  # one family, anew
    python benchmarks/families.py --list              # which config stands for which

Student and teacher are one config with random weights, linked by MSE between their
necks, or backbones where there is no neck. Every family has a process of its own, with
limits on time and memory; models above a size are built and tried, and take no step.
Rows are written one by one, so a run that was stopped goes on.
"""

import argparse
import copy
import functools
import multiprocessing
import os
import resource
import signal
import sys
import sysconfig
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path

import mmdet
import mmpretrain
import torch
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from mmpretrain.structures import DataSample
from steps import store, without_weights
from tables import refresh
from torch import nn

import kd_mm  # noqa: F401  makes `kd_mm::` known to MMEngine
from kd_mm import sizes
from kd_mm.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / 'benchmarks/results/families.json'
PACKAGES = dict(mmdet=mmdet, mmpretrain=mmpretrain)
SECONDS = 120  # of computing, for one family
GIGABYTES = 8
LARGE = 130e6  # parameters of a student that is not trained here
STEPS = 1
SMALL = (96, 96)  # tried first: enough for most detectors
# The smallest models first: the first text that a file's name has counts.
SMALLEST = (
    'pico', 'atto', 'nano', 'tiny', 'xxs', 'r18', 'resnet18', 'b0', 'small', '-s0',
    '-s_', '_s_', 'swin-t', 'r50', 'resnet50', '50',
)  # fmt: skip
OTHERS = dict(common='lsj-200e', clip='vit-base-p32')  # where the rule chooses badly


def families() -> dict[str, str]:
    """``package/family`` and the config that stands for it."""
    found = {}
    for package, module in PACKAGES.items():
        root = Path(module.__file__).parent / '.mim/configs'
        for folder in sorted(p for p in root.iterdir() if p.is_dir()):
            files = sorted(folder.glob('[!_]*.py'), key=_size)
            wanted = OTHERS.get(folder.name, '')
            files.sort(key=lambda path: wanted not in path.name)
            chosen = next((path for path in files if _has_model(path)), None)
            if chosen is not None:
                name = f'{package}::{folder.name}/{chosen.name}'
                found[f'{package}/{folder.name}'] = name
    return found


def _size(path: Path) -> tuple:
    ranks = [i for i, part in enumerate(SMALLEST) if part in path.stem]
    return min(ranks, default=len(SMALLEST)), len(path.stem), path.stem


def _has_model(path: Path) -> bool:
    try:
        return 'type' in (_read(path).get('model') or {})
    except Exception:
        return True  # cannot be read: that is a row of the table


def _read(path: Path) -> Config:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return Config.fromfile(path)


def in_one_line(error: BaseException) -> str:
    """What an exception says, for a cell of the table."""
    text = ' '.join(str(error).split())
    if not isinstance(error, ConfigError):
        text = f'{type(error).__name__}: {text}'
    for folder in (f'{sysconfig.get_path("purelib")}/', f'{ROOT}/'):
        text = text.replace(folder, '')
    return text.replace('|', '/')[:300]


def examine(config: str) -> dict:
    """One row: what happens when a config is distilled from itself."""
    row = about(config)
    try:
        cfg = packaged(config)
        model_cfg = plain_config(cfg)
        scope = scope_of(cfg, config)
        loader = sizes.data_of_run((cfg.get('train_dataloader') or {}).copy())
        with scope, loader:
            return row | distilled(model_cfg)
    except Exception as error:
        return row | dict(result='cannot run here', reason=in_one_line(error))


def about(config: str) -> dict:
    """What is known of a row before anything is built."""
    package, name = config.split('::')
    return dict(config=config, family=f'{package}/{name.split("/")[0]}')


def packaged(config: str) -> Config:
    """A config of an installed package, ``package::family/file.py``."""
    package, name = config.split('::')
    return _read(Path(PACKAGES[package].__file__).parent / '.mim/configs' / name)


def scope_of(cfg: Config, config: str) -> AbstractContextManager[None]:
    """Context in which the names of a packaged config are looked up."""
    scope = cfg.get('default_scope', config.split('::')[0])
    return DefaultScope.overwrite_default_scope(scope)


def plain_config(cfg: Config) -> ConfigDict:
    """The model of a config, with its preprocessor, without downloads."""
    model = without_weights(cfg.model)
    if shared := cfg.get('data_preprocessor'):  # MMPretrain keeps it outside the model
        model.setdefault('data_preprocessor', shared)
    if cfg.get('default_scope') == 'mmdet' and 'data_preprocessor' in model:
        model.data_preprocessor.pop('batch_augments', None)  # other, larger sizes
    return model


def distilled(student: ConfigDict) -> dict:
    """Result, reason and tap of a model that can be built."""
    plain = MODELS.build(copy.deepcopy(student))  # some detectors change theirs
    count = sum(p.numel() for p in plain.parameters())
    tap = 'neck' if isinstance(getattr(plain, 'neck', None), nn.Module) else 'backbone'
    is_detector = type(plain).__module__.startswith('mmdet')
    tap = tap if is_detector else 'backbone'
    row = dict(tap=tap, parameters=round(count / 1e6, 1))
    link = dict(student=tap, teacher=tap, criterion=dict(type='kd_mm.MSELoss'))
    cfg = ConfigDict(
        type='kd_mm.Distill',
        student=student,
        teacher=dict(config=student, allow_random=True),
        links=dict(generic=link),
    )
    try:
        model = build(cfg, small=is_detector)
    except ConfigError as error:
        result = 'refused'
        if 'cannot be tried' in str(error) and train(plain, is_detector):
            result = 'cannot run here'  # nor can the plain student
        return row | dict(result=result, reason=in_one_line(error))
    except Exception as error:
        return row | dict(result=fault(error), reason=in_one_line(error))
    model.init_weights()
    model.distiller.teacher.model.init_weights()
    plain.init_weights()
    if count > LARGE:
        reason = 'too large to be trained here; both networks built and tried'
        return row | dict(result='tried', reason=reason)
    error = train(model, is_detector)
    if error is None:
        return row | dict(result='distilled', reason='')
    without = train(plain, is_detector)
    if without is not None:
        reason = f'without distillation it takes no step here either: {without}'
        return row | dict(result='tried', reason=reason)
    return row | dict(result='failed', reason=error)


def fault(error: Exception) -> str:
    """Whose fault an unexpected exception is: the machine's, or this package's."""
    return 'cannot run here' if "can't allocate memory" in str(error) else 'failed'


def build(cfg: ConfigDict, *, small: bool) -> nn.Module:
    """The distilled model, tried on small images where they will do."""
    if small:
        try:
            return MODELS.build(cfg | dict(trial_size=SMALL))
        except ConfigError:
            pass
    return MODELS.build(cfg)


def train(model: nn.Module, is_detector: bool) -> str | None:
    """A few steps; None, or what went wrong at the likeliest size."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    first = None
    for batch in batches(model, is_detector):
        try:
            data = model.data_preprocessor(batch, True)
            for _ in range(STEPS):
                log = step(model, data, optimizer)
            if 'loss_kd_generic' in log and not log['loss_kd_generic'].isfinite():
                return 'loss_kd_generic is not finite'
            return None
        except Exception as error:
            first = first or in_one_line(error)
    return first


def step(model: nn.Module, data: dict, optimizer: torch.optim.Optimizer) -> dict:
    """One step with clipped gradients; what is logged."""
    total, log = model.parse_losses(model(**data, mode='loss'))
    optimizer.zero_grad()
    total.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return log


def batches(model: nn.Module, is_detector: bool) -> Iterator[dict]:
    """Random batches that the model may take, the likeliest size first."""
    found = sizes.candidates(model, on_cpu=True)
    found = [SMALL, *found] if is_detector else found
    variants = product(found, sizes.channels(model), (True, False))
    for (height, width), bands, masks in variants:
        if is_detector:
            yield detection(bands, height, width, masks)
        else:
            yield classification(bands, height, width)


def detection(bands: int, height: int, width: int, masks: bool) -> dict:
    """Two images with boxes, masks or not, segments, proposals and a caption."""
    batch = demo_mm_inputs(
        2,
        [(bands, height, width)] * 2,
        num_items=[3, 3],
        num_classes=2,
        with_mask=masks,
        with_semantic=True,
    )
    for sample in batch['data_samples']:
        sample.gt_instances.labels.zero_()
        sample.proposals = InstanceData(bboxes=sample.gt_instances.bboxes.clone())
        sample.set_metainfo(dict(text='thing.', flip=False))
    return batch


def classification(bands: int, height: int, width: int) -> dict:
    """Two images with labels."""
    images = torch.randint(0, 256, (2, bands, height, width), dtype=torch.uint8)
    return dict(
        inputs=list(images), data_samples=[DataSample().set_gt_label(i) for i in (0, 1)]
    )


def in_own_process(work: Callable[[], dict], row: dict, *, verbose: bool) -> dict:
    """What ``work`` gives in a process that is ended when it takes too much.

    ``row`` stands for it then.
    """
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, theirs, verbose))
    began = time.perf_counter()
    process.start()
    theirs.close()
    found = None
    try:
        found = ours.recv()
    except EOFError:  # the kernel ended it
        process.join()
        slow = process.exitcode == -signal.SIGXCPU
        reason = (
            f'more than {SECONDS} s on one core'
            if slow
            else (f'the process was ended (more than {GIGABYTES} GB?)')
        )
    process.join()
    if found is None:
        found = row | dict(result='cannot run here', reason=reason)
    return found | dict(seconds=round(time.perf_counter() - began, 1))


def _child(work: Callable[[], dict], answer: Connection, verbose: bool) -> None:
    if not verbose:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
    limit = GIGABYTES * 2**30
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    used = round(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + SECONDS, used + 2 * SECONDS))
    torch.manual_seed(0)
    try:
        answer.send(work())
    except BaseException:
        if verbose:
            traceback.print_exc()
        raise


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('families', nargs='*', help='package/family; default: all')
    parser.add_argument('--again', action='store_true', help='also those with a row')
    parser.add_argument('--list', action='store_true', help='show the configs only')
    parser.add_argument('--verbose', action='store_true', help='let the models talk')
    args = parser.parse_args()
    found = families()
    if args.families:
        found = {name: found[name] for name in args.families}
    if args.list:
        print('\n'.join(f'{name:32} {config}' for name, config in found.items()))
        return 0
    done = RESULT.read_text() if RESULT.is_file() else ''
    register_all_modules(init_default_scope=False)
    mmpretrain.utils.register_all_modules(init_default_scope=False)
    for config in found.values():
        if f'"{config}"' in done and not args.again:
            continue
        row = in_own_process(
            functools.partial(examine, config), about(config), verbose=args.verbose
        )
        store(RESULT, config, [row])
        print(f'{row["family"]:32} {row["result"]:16} {row["reason"]}', flush=True)
    refresh()
    return 0


if __name__ == '__main__':
    sys.exit(main())
