"""One trial pass through a network, before training: what do its taps give?"""

import copy
import functools
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor, nn

from .errors import ConfigError
from .sizes import Size
from .taps import AllTapped, Recording, Taps
from .utils.flops import Flops
from .utils.pretraining import init_parts

IMAGES = 3  # of a trial; levels and decoder layers come in other numbers


@functools.cache
def _sample_class() -> type[BaseDataElement]:
    """Data samples of every toolbox that is installed, in one class."""
    bases: list[type] = []
    try:
        from mmdet.structures import DetDataSample

        bases.append(DetDataSample)
    except ImportError:
        pass
    try:
        from mmpretrain.structures import DataSample

        bases.append(DataSample)
    except ImportError:
        pass
    return type('TrialSample', tuple(bases) or (BaseDataElement,), {})


def trial_samples(count: int, size: Size, image: Size | None = None) -> list[Any]:
    """Ground truth and image sizes that detectors and classifiers can both read.

    Args:
        count (int): How many images.
        size (tuple[int, int]): Height and width of the batch.
        image (tuple[int, int], optional): Height and width of the images in it.
            Defaults to None, the batch's.
    """
    height, width = image or size
    samples = []
    for _ in range(count):
        sample = _sample_class()(
            metainfo=dict(
                img_shape=(height, width),
                ori_shape=(height, width),
                pad_shape=tuple(size),
                batch_input_shape=tuple(size),
                scale_factor=(1.0, 1.0),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[width / 4, height / 4, width / 2, height / 2]]),
            labels=torch.zeros(1, dtype=torch.long),
        )
        if hasattr(sample, 'set_gt_label'):
            sample.set_gt_label(0)
        samples.append(sample)
    return samples


@dataclass
class Pass:
    """What one trial pass showed.

    Attributes:
        recording (Recording): What the taps saw.
        reached (set[nn.Module]): Direct children called before the last tap fired.
        failure (str): Why the pass ended early; '' where it is complete.
        flops (int): What ran, for all images.
    """

    recording: Recording
    reached: set[nn.Module]
    failure: str = ''
    flops: int = 0

    @property
    def useful(self) -> bool:
        """Whether every tap has fired; what fails behind them does not matter."""
        return all(self.recording.calls.values())


@torch.no_grad()
def trial(
    model: nn.Module, taps: Taps, inputs: Tensor, samples: Sequence[Any], *, mode: str
) -> Pass:
    """Run ``model`` once and look at its taps.

    The pass is over when every tap has fired and a second child without taps begins:
    the first may still change in place what was tapped. Without taps it runs to its
    end.

    Args:
        model (nn.Module): Student or teacher; its modes are restored.
        taps (Taps): Its taps.
        inputs (Tensor): ``(N, C, H, W)``, as after the model's preprocessor.
        samples (Sequence): N trial samples; the pass gets copies.
        mode (str): 'loss', in training mode, or 'predict', in eval mode.

    Raises:
        ConfigError: If the pass is complete and a tap was never reached, or a tap
            gives what is no tensor.
    """
    modes = {module: module.training for module in model.modules()}
    model.train(mode == 'loss')
    tapped = {tap.path.split('.')[0] for tap in taps.taps.values()}
    called: set[nn.Module] = set()
    reached: set[nn.Module] = set()
    behind: set[str] = set()
    seen: list[Recording] = []

    def enter(name: str, child: nn.Module) -> None:
        called.add(child)
        fired = seen and seen[0].calls and all(seen[0].calls.values())
        if name not in tapped and fired:
            behind.add(name)
            if len(behind) > 1:
                raise AllTapped

    handles = [
        module.register_forward_pre_hook(
            lambda *_, name=name, child=child: enter(name, child)
        )
        for name, child in model.named_children()
        for module in child.modules()
    ]
    for tap in taps.taps.values():
        module = model.get_submodule(tap.path)
        before = tap.side == 'input'
        kind = 'register_forward_pre_hook' if before else 'register_forward_hook'
        handles.append(getattr(module, kind)(lambda *_: reached.update(called)))
    failure, flops = '', Flops()
    try:
        with flops, taps.record(model) as recording:
            seen.append(recording)
            model(inputs, copy.deepcopy(list(samples)), mode=mode)
    except ConfigError:
        raise
    except Exception as error:
        failure = reason(error)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return Pass(recording, reached, failure, flops.total)


def reason(error: Exception) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    text = f': {lines[0].strip()[:200]}' if lines else ''
    return f'{type(error).__name__}{text}'


def stand_in(model: nn.Module, *, fresh: bool) -> nn.Module:
    """A copy of the student that may be trained without a trace.

    Weights that an optimiser would change are shared; buffers, counters and weights
    that change by themselves (momentum encoders) are not.

    Args:
        model (nn.Module): The student.
        fresh (bool): Whether the copy shares nothing and is initialised as the
            Runner will, except for downloads.
    """
    shared = {} if fresh else {id(p): p for p in model.parameters() if p.requires_grad}
    twin = revert_sync_batchnorm(copy.deepcopy(model, shared))
    if fresh:
        initialise(twin)
    return twin


def initialise(model: nn.Module) -> None:
    """Initialise a network as a Runner does, except for downloads.

    Some parameters hold whatever was in memory before (level embeddings of DETRs).

    Args:
        model (nn.Module): Changed; one without ``init_weights`` is left as it is.
    """
    for module in model.modules():
        files, others = init_parts(getattr(module, 'init_cfg', None))
        if files:  # what has none keeps its form: XCiT, for one, reads a dict
            module.init_cfg = others or None
    if hasattr(model, 'init_weights'):
        model.init_weights()


def device_of(model: nn.Module) -> torch.device:
    """Where a network's first tensor is."""
    return next(itertools.chain(model.parameters(), model.buffers())).device


@contextmanager
def on_device(model: nn.Module, device: str) -> Iterator[None]:
    """A network on another device for a while."""
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    if tensor is None or device == 'cpu' == tensor.device.type:
        yield
        return
    home = tensor.device
    try:
        model.to(device)
        yield
    finally:
        model.to(home)
