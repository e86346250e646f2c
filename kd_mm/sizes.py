"""Which images a trial is made of: sizes from pipelines, channels from networks."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mmengine.registry import DATASETS
from torch import nn

from .utils.kinds import type_name

Size = tuple[int, int]  # height, width in pixels

# The data of the run that is building a model now, as its config says.
_data: ContextVar[dict | None] = ContextVar('kd_mm_training_data', default=None)

ODD = (149, 211)  # primes: no stride divides them, as with most images of a batch
LARGEST = 416  # side of a square with as many pixels as a trial on the CPU has


@contextmanager
def data_of_run(loader: Any) -> Iterator[None]:
    """Let a trial inside know what the run trains on.

    Args:
        loader (Any): ``train_dataloader`` of the config; not a dict: nothing is known.
    """
    token = _data.set(loader if isinstance(loader, dict) else None)
    try:
        yield
    finally:
        _data.reset(token)


def training_images() -> int | None:
    """How many images the run trains on; None where no run is building the model.

    The data set is built for that, and left in the loader's config, where the runner
    finds it built. Of a fold or a repetition it is the set inside, whose numbers the
    samples carry.
    """
    loader = _data.get() or {}
    dataset = loader.get('dataset')
    if dataset is None:
        return None
    if isinstance(dataset, dict):
        dataset = loader['dataset'] = DATASETS.build(dataset)
    while hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    return len(dataset)


def candidates(*models: nn.Module, on_cpu: bool) -> list[Size]:
    """Sizes to try, the likeliest first.

    That is the size which the training pipeline ends with, if it has one; else an odd
    size, padded as the first model's preprocessor does. Behind come sizes that
    networks are made for.

    Args:
        *models (nn.Module): Student and teacher.
        on_cpu (bool): Whether large images are tried at half their size first.
    """
    found: list[Size] = []
    fixed = pipeline_size((_data.get() or {}).get('dataset'))
    if fixed:
        small = fixed
        while on_cpu and math.prod(small) > LARGEST**2:
            small = (small[0] // 2, small[1] // 2)
        found += [small]
    found += [padded(ODD, models[0].data_preprocessor)]
    found += [size for model in models for size in _made_for(model)]
    found += [fixed] if fixed else []
    found += [(224, 224), (384, 384), (512, 512)]
    return list(dict.fromkeys(found))


def padded(size: Size, preprocessor: nn.Module) -> Size:
    """A size rounded up to what the preprocessor pads to."""
    divisor = int(getattr(preprocessor, 'pad_size_divisor', 1) or 1)
    height, width = (math.ceil(n / divisor) * divisor for n in size)
    return height, width


def pipeline_size(dataset: Any) -> Size | None:
    """The size all images of a data set end up with, None where it varies."""
    size = None
    for step in _steps(dataset):
        kind = type_name(step)
        if 'Crop' in kind and step.get('crop_type', 'absolute') == 'absolute':
            size = _whole(step.get('crop_size', step.get('scale'))) or size
        elif 'Mosaic' in kind:
            size = _whole(step.get('img_scale', (640, 640)), flip=True) or size
        elif kind == 'Pad':
            size = _whole(step.get('size'), flip=True) or size
        elif kind == 'Resize' and not step.get('keep_ratio', False):
            size = _whole(step.get('scale'), flip=True)
        elif 'Resize' in kind:
            size = None
    return size


def _steps(dataset: Any) -> Iterator[dict]:
    """Transforms in the order they run, through wrappers of the data set."""
    if not isinstance(dataset, dict):
        return
    inner = dataset.get('dataset') or (dataset.get('datasets') or [None])[0]
    yield from _steps(inner)
    pending = list(dataset.get('pipeline') or [])
    while pending:
        step = pending.pop(0)
        if isinstance(step, Sequence) and step and not isinstance(step, str):
            pending.insert(0, step[0])  # one of several pipelines, by chance
        elif isinstance(step, dict) and 'type' in step:
            yield step
            pending = list(step.get('transforms') or []) + pending


def _whole(value: Any, *, flip: bool = False) -> Size | None:
    """Height and width out of a number or two; ``flip`` for (width, height)."""
    pair = [value, value] if isinstance(value, int) else value
    if not isinstance(pair, Sequence) or len(pair) != 2:
        return None
    if not all(isinstance(n, int) and n > 1 for n in pair):
        return None
    height, width = reversed(pair) if flip else pair
    return height, width


def _made_for(model: nn.Module) -> Iterator[Size]:
    """Sizes that a network's own parts name (``img_size`` of vision transformers)."""
    for module in model.modules():
        for name in ('img_size', 'init_input_size', 'input_size'):
            if size := _whole(getattr(module, name, None)):
                yield size


def channels(model: nn.Module) -> list[int]:
    """How many channels a network's images may have, the likeliest first.

    The preprocessor's mean says it where it has several values. Else the first
    convolution does, unless pixels are rearranged in front of it (YOLOX).
    """
    preprocessor = model.data_preprocessor
    if getattr(preprocessor, '_enable_normalize', False) and len(preprocessor.mean) > 1:
        return [len(preprocessor.mean)]
    stem = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    found = [stem.in_channels] if stem is not None else []
    return list(dict.fromkeys([*found, 3]))
