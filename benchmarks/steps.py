"""What the cost benchmarks time: a distilled model, its student and its teacher."""

import copy
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import kd_mm  # noqa: F401  makes `kd_mm::` known to MMEngine
from kd_mm.optimizers import OptimizerPair
from kd_mm.stages import DAFA, ChannelAlign
from kd_mm.trial import trial_samples
from kd_mm.utils.kinds import default_scope

try:
    from kd_mm.utils.export import without_own_optimizer
except ImportError:  # its name in versions that are compared with (cost_commits.py)
    from kd_mm.utils.export import _without_constructor as without_own_optimizer

OBJECTS = 5  # in an image
CLASSES = 10  # that labels are drawn from


def without_weights(value):
    """A copy of a config without what would be downloaded."""
    if isinstance(value, dict):
        kept = {k: without_weights(v) for k, v in value.items() if k != 'init_cfg'}
        return ConfigDict(kept)
    if isinstance(value, list | tuple):
        return type(value)(without_weights(v) for v in value)
    return value


def student_config(cfg: Config) -> ConfigDict:
    """The plain student, with its data preprocessor."""
    student = without_weights(cfg.model.student)
    if shared := cfg.get('data_preprocessor'):  # MMPretrain keeps it outside the model
        student.setdefault('data_preprocessor', shared)
    return student


def random_batch(
    batch_size: int, size: tuple[int, int], device: str
) -> tuple[Tensor, list]:
    """Images and labels as a data preprocessor leaves them.

    The samples have boxes, masks and class labels, so that a detector finds what it
    needs, and a classifier too.
    """
    samples = trial_samples(batch_size, size)
    extent = torch.tensor([size[1], size[0]])
    for number, sample in enumerate(samples):
        corner, side = torch.rand(2, OBJECTS, 2)
        low = corner * extent * 0.7
        boxes = torch.cat([low, low + (0.05 + 0.25 * side) * extent], dim=1)
        sample.gt_instances = InstanceData(
            bboxes=boxes,
            labels=torch.randint(CLASSES, (OBJECTS,)),
            masks=BitmapMasks.random(OBJECTS, height=size[0], width=size[1]),
        )
        sample.set_gt_label(torch.randint(CLASSES, (1,)))
        sample.set_metainfo(dict(sample_idx=number))
    images = torch.randn(batch_size, 3, *size, device=device)
    return images, [sample.to(device) for sample in samples]


def optimizer(cfg: Config, model: nn.Module) -> OptimWrapper:
    """The config's, in fp32, with a rate at which next to nothing changes."""
    sgd = ConfigDict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
    own = copy.deepcopy(cfg.get('optim_wrapper', sgd))
    own.type = 'OptimWrapper'
    if not hasattr(model, 'distiller'):
        without_own_optimizer(own)
    wrapper = build_optim_wrapper(model, own)
    for group in wrapper.optimizer.param_groups:
        group['lr'] = 1e-6
    return wrapper


class Bench:
    """The steps of one config, each a call without arguments.

    Args:
        cfg (Config): Of a distilled model.
        data (tuple): Preprocessed images on the device, and their samples.
        device (str): Where the networks go.
        random (bool): Whether the teacher has random weights. Defaults to True.
    """

    def __init__(
        self,
        cfg: Config,
        *,
        data: tuple[Tensor, list],
        device: str,
        random: bool = True,
    ) -> None:
        model_cfg = without_weights(cfg.model)
        if random:
            model_cfg.teacher.update(checkpoint=None, allow_random=True)
        student = model_cfg.student = student_config(cfg)
        began = time.perf_counter()
        with default_scope(cfg):
            # some networks write into their config
            self.plain = MODELS.build(copy.deepcopy(student)).to(device).train()
            self.built_plain = time.perf_counter() - began
            self.distilled = MODELS.build(model_cfg).to(device).train()
        self.built = time.perf_counter() - began - self.built_plain
        # what no tap needs stays off an accelerator, and is timed with the rest here
        self.distilled.distiller.teacher.model.to(device)
        self.data = data
        self.optimizers = {
            id(model): optimizer(cfg, model) for model in (self.plain, self.distilled)
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

    def step(self, model: nn.Module) -> Tensor:
        """Forward, backward, update; the loss."""
        loss, _ = model.parse_losses(model(*self.data, mode='loss'))
        self.optimizers[id(model)].update_params(loss)
        if model is self.distilled:
            model.distiller.settle()  # as DistillHook does
        return loss.detach()

    @torch.no_grad()
    def teacher(self):
        """The teacher as far as the last tap."""
        distiller = self.distilled.distiller
        specs = distiller.specs('teacher', dict.fromkeys(distiller.links, 1.0))
        return distiller.teacher(*self.data, specs)

    @torch.no_grad()
    def whole_teacher(self) -> None:
        """The teacher to its predictions, as a model of its own would run."""
        teacher = self.distilled.distiller.teacher
        teacher.model(teacher.bridge(*self.data), self.data[1], mode='predict')

    @torch.no_grad()
    def predict(self, model: nn.Module) -> None:
        """Predictions, as in validation."""
        model.eval()
        model(*self.data, mode='predict')
        model.train()

    def search(self) -> None:
        """A distilled step during DAFA's search."""
        self.progress(after_search=False)
        self.step(self.distilled)
        self.progress(after_search=True)

    def variants(self) -> dict[str, Callable[[], object]]:
        """What is measured."""
        out: dict[str, Callable[[], object]] = dict(
            student=lambda: self.step(self.plain),
            teacher=self.teacher,
            distilled=lambda: self.step(self.distilled),
            whole_teacher=self.whole_teacher,
            predict_plain=lambda: self.predict(self.plain),
            predict_distilled=lambda: self.predict(self.distilled),
        )
        if any(isinstance(stage, DAFA) for stage in self.stages):
            out['search'] = self.search
        return out

    @torch.no_grad()
    def tapped(self) -> int:
        """Bytes of the features that both sides of all links read."""
        distiller, found = self.distilled.distiller, []
        factors = dict.fromkeys(distiller.links, 1.0)
        specs = distiller.specs('student', factors)
        with distiller.taps['student'].record(self.distilled, specs=specs) as seen:
            self.distilled._student_loss(*self.data)
        for recording in (seen, self.teacher()):
            found += [t for calls in recording.calls.values() for c in calls for t in c]
        return size_of(found)

    def _optimizers(self, model: nn.Module) -> Sequence[Optimizer]:
        own = self.optimizers[id(model)].optimizer
        return own.both if isinstance(own, OptimizerPair) else [own]

    def trained_by(self) -> str:
        """Names of the distilled model's optimisers, the distiller's last."""
        return ' + '.join(type(o).__name__ for o in self._optimizers(self.distilled))

    def held(self, model: nn.Module) -> int:
        """Bytes that stay from step to step: weights and the optimiser's state."""
        both = self._optimizers(model)
        states = [state for one in both for state in one.state.values()]
        kept = (v for state in states for v in state.values() if torch.is_tensor(v))
        return size_of([*model.parameters(), *model.buffers(), *kept])

    def memory(self, device: str) -> dict[str, int]:
        """Bytes: of the plain and of the distilled training, and the latter's bound.

        The bound is what cannot be less: the plain training, the teacher's weights and
        the features that are read.
        """
        teacher = self.distilled.distiller.teacher.model.state_dict().values()
        found = {}
        for name, model in dict(student=self.plain, distilled=self.distilled).items():
            self.optimizers[id(model)].zero_grad()  # gradients count as the step's
            peak = peak_memory(lambda m=model: self.step(m), device)
            found[name] = self.held(model) + peak
        found['distilled'] += size_of(teacher)
        found['bound'] = found['student'] + size_of(teacher) + self.tapped()
        return found


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes, each storage once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def measure(
    variants: dict[str, Callable[[], object]], *, repeats: int, device: str
) -> dict[str, list[float]]:
    """Seconds of every variant, turn by turn; the first two turns do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(repeats + 2):
        for name, run in variants.items():
            took = timed(run, device)
            if turn >= 2:
                seconds[name].append(took)
    return seconds


def timed(run: Callable[[], object], device: str) -> float:
    """Seconds of one call, to the end of what it started."""
    if device == 'cuda':
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if device == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter() - began


def ratios(above: list[float], *below: list[float]) -> list[float]:
    """Turn by turn: one time over the sum of others."""
    return [a / sum(b) for a, *b in zip(above, *below, strict=True)]


def ratio(above: list[float], *below: list[float]) -> str:
    """Median and quartiles of the turns' ratios, as text."""
    low, middle, high = statistics.quantiles(ratios(above, *below), n=4)
    return f'{middle:.3f} ({low:.3f} to {high:.3f})'


def peak_memory(run: Callable[[], object], device: str) -> int:
    """Bytes that a run takes from torch's allocator at its peak, beyond those held."""
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    every = seen.profiler.kineto_results.events()
    events = sorted((e for e in every if e.name() == '[memory]'), key=_when)
    return max(itertools.accumulate((e.nbytes() for e in events), initial=0))


def _when(event) -> int:
    return event.start_ns()


def count_flops(run: Callable[[], object]) -> dict[object, int]:
    """Floating-point operations by operator: products and convolutions, both ways."""
    # the fused attention of a CPU is not known to the counter
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_flop_counts()['Global']


def flops(run: Callable[[], object]) -> int:
    """Floating-point operations of all of them."""
    return sum(count_flops(run).values())


def store(path: Path, config: str, new: list[dict]) -> None:
    """Put the rows of one config into a result file, in the place of its old ones."""
    rows = json.loads(path.read_text()) if path.is_file() else []
    rows = [row for row in rows if row['config'] != config] + new
    lines = ',\n '.join(json.dumps(row) for row in rows)
    path.write_text(f'[{lines}]\n')


def runs_without_waiting(run: Callable[[], object]) -> bool:
    """Whether a step of the GPU holds up the host nowhere."""
    torch.cuda.set_sync_debug_mode('error')
    try:
        run()
    except RuntimeError:
        return False
    finally:
        torch.cuda.set_sync_debug_mode('default')
    return True
