#!/usr/bin/env python
"""What a distilled step costs, beside the plain step and the teacher's forward pass.

    python benchmarks/cost.py                                  # the default configs
    python benchmarks/cost.py configs/kd/my.py --size 320 320 --batch-size 2

Everything of one config is measured in turns within one run, so that a machine's moods
hit all alike; ratios are taken turn by turn, and their median and quartiles reported.
Random weights and images; no data is read. Run it on a machine that does nothing else.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import MODELS, DefaultScope
from rich.console import Console
from rich.table import Table
from tables import refresh
from torch import nn

import kd_mm  # noqa: F401  makes `kd_mm::` known to MMEngine
from kd_mm.stages import DAFA, ChannelAlign

ROOT = Path(__file__).resolve().parents[1]
NAMES = ('fitnet', 'pkd', 'kcd_pkd', 'sokd', 'dpk')
DEFAULT = [
    *(f'configs/kd/digits/retinanet_r18w24_r18w16_{name}_digits.py' for name in NAMES),
    *(
        f'configs/kd/retinanet_r101_r50_{name}.py'
        for name in ('fitnet', 'cwd', 'pkd', 'kcd_pkd', 'sokd')
    ),
]


def without_weights(value):
    """A copy of a config without what would be downloaded."""
    if isinstance(value, dict):
        kept = {k: without_weights(v) for k, v in value.items() if k != 'init_cfg'}
        return ConfigDict(kept)
    if isinstance(value, list | tuple):
        return type(value)(without_weights(v) for v in value)
    return value


class Bench:
    """The steps of one config, each a call without arguments.

    Args:
        cfg (Config): Of a distilled detector.
        device (str): Where to.
        batch_size (int): Images in a step.
        size (tuple[int, int]): Height and width of the images.
    """

    def __init__(
        self, cfg: Config, *, device: str, batch_size: int, size: tuple[int, int]
    ) -> None:
        model_cfg = without_weights(cfg.model)
        model_cfg.teacher.update(checkpoint=None, allow_random=True)
        began = time.perf_counter()
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmdet')):
            self.plain = MODELS.build(model_cfg.student).to(device).train()
            self.built_plain = time.perf_counter() - began
            self.distilled = MODELS.build(model_cfg).to(device).train()
        self.built = time.perf_counter() - began - self.built_plain
        batch = demo_mm_inputs(
            batch_size, [(3, *size)] * batch_size, num_items=[5] * batch_size,
            num_classes=10, use_box_type=True,
        )  # fmt: skip
        self.data = self.plain.data_preprocessor(batch, True)
        self.optimizers = {
            id(m): torch.optim.SGD(m.parameters(), lr=1e-6, momentum=0.9)
            for m in (self.plain, self.distilled)
        }
        self.stages = [
            s for link in self.distilled.distiller.links.values() for s in link.stages
        ]
        for stage in self.stages:
            if isinstance(stage, ChannelAlign):
                stage._mark(0)  # any map costs the same
        self.progress(after_search=True)

    def progress(self, *, after_search: bool) -> None:
        """Where training is, for what depends on it."""
        searches = [s for s in self.stages if isinstance(s, DAFA)]
        done = 900 if after_search else max((s.start for s in searches), default=0)
        hub = MessageHub.get_current_instance()
        for name, value in dict(iter=done, max_iters=1000, max_epochs=1000).items():
            hub.update_info(name, value)

    def step(self, model: nn.Module) -> None:
        """Forward, backward, update."""
        loss, _ = model.parse_losses(model(**self.data, mode='loss'))
        optimizer = self.optimizers[id(model)]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def teacher(self) -> None:
        """The teacher as far as the last tap."""
        distiller = self.distilled.distiller
        specs = distiller.specs('teacher', dict.fromkeys(distiller.links, 1.0))
        distiller.teacher(self.data['inputs'], self.data['data_samples'], specs)

    @torch.no_grad()
    def whole_teacher(self) -> None:
        """The teacher to its predictions, as a detector of its own would run."""
        self.distilled.distiller.teacher.model(**self.data, mode='tensor')

    @torch.no_grad()
    def predict(self, model: nn.Module) -> None:
        """Predictions."""
        model.eval()
        model(**self.data, mode='tensor')
        model.train()

    def variants(self) -> dict[str, Callable[[], None]]:
        """What is measured."""

        def searching() -> None:
            self.progress(after_search=False)
            self.step(self.distilled)
            self.progress(after_search=True)

        out = dict(
            student=lambda: self.step(self.plain),
            teacher=self.teacher,
            distilled=lambda: self.step(self.distilled),
            whole_teacher=self.whole_teacher,
            predict_plain=lambda: self.predict(self.plain),
            predict_distilled=lambda: self.predict(self.distilled),
        )
        if any(isinstance(stage, DAFA) for stage in self.stages):
            out['search'] = searching
        return out


def measure(
    variants: dict[str, Callable[[], None]], *, repeats: int, device: str
) -> dict[str, list[float]]:
    """Seconds of every variant, turn by turn; the first two turns do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(repeats + 2):
        for name, run in variants.items():
            if device == 'cuda':
                torch.cuda.synchronize()
            began = time.perf_counter()
            run()
            if device == 'cuda':
                torch.cuda.synchronize()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def peak_memory(run: Callable[[], None], device: str) -> float | None:
    """Peak of a variant in MiB, on an accelerator."""
    if device != 'cuda':
        return None
    torch.cuda.reset_peak_memory_stats()
    run()
    return round(torch.cuda.max_memory_allocated() / 2**20, 1)


def runs_without_waiting(run: Callable[[], None], device: str) -> bool | None:
    """Whether a step of the GPU holds up the host nowhere."""
    if device != 'cuda':
        return None
    torch.cuda.set_sync_debug_mode('error')
    try:
        run()
    except RuntimeError:
        return False
    finally:
        torch.cuda.set_sync_debug_mode('default')
    return True


def ratio(above: list[float], *below: list[float]) -> str:
    """Median and quartiles of the turns' ratios, as text."""
    each = [a / sum(b) for a, *b in zip(above, *below, strict=True)]
    low, middle, high = statistics.quantiles(each, n=4)
    return f'{middle:.3f} ({low:.3f} to {high:.3f})'


def report(path: Path, args: argparse.Namespace) -> dict:
    """One row: a config's times and ratios."""
    small = 'digits' in path.name
    size = tuple(args.size or ((128, 128) if small else (320, 320)))
    batch = args.batch_size or (8 if small else 1)
    bench = Bench(
        Config.fromfile(path), device=args.device, batch_size=batch, size=size
    )
    variants = bench.variants()
    seconds = measure(variants, repeats=args.repeats, device=args.device)
    extra = sum(p.numel() for p in bench.distilled.distiller.parameters())
    row = dict(
        config=path.stem,
        batch=batch,
        size=f'{size[0]} x {size[1]}',
        turns=args.repeats,
        student_ms=round(1000 * statistics.median(seconds['student']), 1),
        teacher_ms=round(1000 * statistics.median(seconds['teacher']), 1),
        overhead=ratio(seconds['distilled'], seconds['student'], seconds['teacher']),
        search='',
        prediction=ratio(seconds['predict_distilled'], seconds['predict_plain']),
        teacher_part=ratio(seconds['teacher'], seconds['whole_teacher']),
        extra_parameters=f'{extra / 1e6:.2f} M',
        build_s=round(bench.built, 1),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        device=args.device,
    )
    if 'search' in seconds:
        row['search'] = ratio(seconds['search'], seconds['student'], seconds['teacher'])
    if args.device == 'cuda':
        row['memory'] = {n: peak_memory(run, 'cuda') for n, run in variants.items()}
        row['no_waiting'] = runs_without_waiting(variants['distilled'], 'cuda')
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('configs', nargs='*', default=DEFAULT)
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--repeats', type=int, default=15)
    parser.add_argument('--batch-size', type=int)
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'))
    args = parser.parse_args()
    if args.repeats < 2:
        sys.exit('error: --repeats must be >= 2')
    MMLogger.get_instance('cost', log_level='WARNING')
    path = ROOT / f'benchmarks/results/cost_{args.device}.json'
    table = Table('config', 'student', 'teacher', 'overhead', 'while it searches')
    for config in args.configs:
        row = report(ROOT / config, args)
        rows = json.loads(path.read_text()) if path.is_file() else []
        rows = [r for r in rows if r['config'] != row['config']] + [row]
        lines = ',\n '.join(json.dumps(r) for r in rows)
        path.write_text(f'[{lines}]\n')
        times = (f'{row[key]:.0f} ms' for key in ('student_ms', 'teacher_ms'))
        table.add_row(row['config'], *times, row['overhead'], row['search'])
        print(row['config'], row['overhead'], row['search'], flush=True)
    refresh()
    Console().print(table)


if __name__ == '__main__':
    main()
