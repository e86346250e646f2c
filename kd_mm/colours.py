"""The teacher sees the colours that a photograph came with, the student augmented ones.

The training pipeline is followed twice from its first colour transform on: with it for
the student, without for the teacher. Everything else falls the same way for both, so
that their maps stay aligned.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from .errors import ConfigError
from .utils.randomness import kept_random

FIELD = 'kd_plain_image'  # of a data sample
OPTION = 'teacher.plain_colours'
COLOURS = {
    'AutoContrast', 'Brightness', 'Color', 'ColorJitter', 'ColorTransform', 'Contrast',
    'Equalize', 'GaussianBlur', 'Invert', 'Lighting', 'PhotoMetricDistortion',
    'Posterize', 'RandomAdjustSharpness', 'RandomAutocontrast', 'RandomEqualize',
    'RandomGrayscale', 'RandomInvert', 'RandomPosterize', 'RandomSolarize',
    'Sharpness', 'Solarize', 'SolarizeAdd', 'YOLOXHSVRandomAug',
}  # fmt: skip
MIXED = {
    'Albu', 'Albumentations', 'AugMix', 'AutoAugment', 'ImageAug', 'RandAugment',
    'TrivialAugmentWide',
}  # fmt: skip
CHOICES = {'RandomApply', 'RandomChoice', 'RandomOrder'}
TORCHVISION = 'TorchVisonTransformWrapper'  # MMPretrain's spelling
# What a transform has that takes in other images: MMDetection's and MMYOLO's mosaics
# and mix-ups, those with a cache of the images that came before.
OTHERS = ('results_cache', 'get_indexes', 'get_indices')


def changes_colours(transform: Any) -> bool:
    """Whether a transform changes colours and nothing else.

    Raises:
        ConfigError: If it changes colours and shapes, and does not say which when.
    """
    name = type(transform).__name__
    if name == TORCHVISION:
        return changes_colours(transform.t)
    if name in CHOICES:
        inner = [changes_colours(part) for part in _parts(transform)]
        if any(inner) and not all(inner):
            raise ConfigError(_cannot(f'{name} chooses between colours and shapes'))
        return bool(inner) and all(inner)
    if name in MIXED:
        raise ConfigError(_cannot(f'{name} changes colours and shapes at once'))
    return name in COLOURS


def _parts(transform: Any) -> list:
    """What a transform consists of or chooses from, in lists of lists."""
    parts = getattr(transform, 'transforms', ())
    parts = getattr(parts, 'transforms', parts)  # MMEngine's or MMCV's Compose
    found: list = []
    for part in parts if isinstance(parts, Iterable) else ():
        row = part.transforms if type(part).__name__ == 'Compose' else part
        found += row if isinstance(row, list | tuple) else [row]
    return found


def _takes_others(transform: Any) -> str | None:
    """The name of the transform, here or inside, that takes in other images."""
    if any(hasattr(transform, name) for name in OTHERS):
        return type(transform).__name__
    return next(filter(None, map(_takes_others, _parts(transform))), None)


def _cannot(why: str) -> str:
    return f'{OPTION}: the training pipeline cannot tell colours apart: {why}'


class TwoColours:
    """The end of a pipeline, followed with and without its colour transforms.

    The second image travels in the data sample.

    Args:
        transforms (Sequence[Callable]): From the first colour transform to the one
            that packs.

    Raises:
        ConfigError: If one of them takes in other images: followed twice, it would
            take two at once into its cache, or a different one for each.
    """

    def __init__(self, transforms: Sequence[Callable]) -> None:
        self.transforms = list(transforms)
        self.colours = [changes_colours(t) for t in self.transforms]
        if mixing := next(filter(None, map(_takes_others, self.transforms)), None):
            raise ConfigError(
                _cannot(
                    f'{mixing} takes in other images behind the first colour '
                    'transform; put it before that, or leave plain_colours out'
                )
            )

    def __call__(self, results: dict) -> dict | None:
        plain: Any = copy.deepcopy(results)
        for transform, coloured in zip(self.transforms, self.colours, strict=True):
            if not coloured:
                with kept_random():  # the student's comes with the same numbers
                    plain = transform(plain)
            results = transform(results)
            if results is None or plain is None:
                return None
        if not {'inputs', 'data_samples'} <= results.keys():
            raise ConfigError(_cannot('it does not end with packed data samples'))
        results['data_samples'].set_field(plain['inputs'], FIELD, dtype=Tensor)
        return results


def split_colours(dataset: Any) -> int:
    """Let a data set give both images from now on.

    Args:
        dataset (Dataset): Of MMEngine, wrapped or not; changed.

    Returns:
        int: How many pipelines had colour transforms.

    Raises:
        ConfigError: If images are mixed behind a colour transform.
    """
    below = sum(split_colours(part) for part in _inside(dataset))
    steps = _steps(dataset)
    if steps is None:
        return below
    if below:
        raise ConfigError(_cannot('images are mixed behind the colour transforms'))
    if any(isinstance(step, TwoColours) for step in steps):
        return 1
    first = next((i for i, t in enumerate(steps) if changes_colours(t)), None)
    if first is None:
        return 0
    _split_at(dataset, first)
    return 1


def _split_the_rest(dataset: Any) -> None:
    """Where a pipeline has no colours, its last transform gives one image twice."""
    steps = _steps(dataset)
    if steps is None:
        for part in _inside(dataset):
            _split_the_rest(part)
    elif not any(isinstance(step, TwoColours) for step in steps):
        _split_at(dataset, -1)


def _split_at(dataset: Any, first: int) -> None:
    steps = _steps(dataset)
    steps[first:] = [TwoColours(steps[first:])]
    if hasattr(dataset, 'pipeline_types'):  # MultiImageMixDataset has names beside them
        dataset.pipeline_types[first:] = [TwoColours.__name__]


def _inside(dataset: Any) -> list:
    """The data sets that one wraps."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    return [part for part in inner if part is not None]


def _steps(dataset: Any) -> Any:
    """The transforms of a data set's own pipeline, a list to change; None: it has none.

    Its ``pipeline`` is MMEngine's Compose, MMCV's where a hook has put another in its
    place, or a list.
    """
    own = getattr(dataset, 'pipeline', None)
    steps = getattr(own, 'transforms', own)
    return steps if isinstance(steps, list) else None


def transforms_of(dataset: Any) -> Iterator[Any]:
    """All transforms a data set's images may go through, those inside others too."""
    for part in _inside(dataset):
        yield from transforms_of(part)
    for step in _steps(dataset) or ():
        yield from _with_parts(step)


def _with_parts(transform: Any) -> Iterator[Any]:
    yield transform
    if type(transform).__name__ == TORCHVISION:
        yield from _with_parts(transform.t)
    albumentations = getattr(transform, 'aug', None)
    branches = getattr(transform, 'branch_pipelines', None)  # of MMDetection
    inside = [transform, albumentations]
    inside += branches.values() if isinstance(branches, dict) else []
    for part in [part for one in inside for part in _parts(one)]:
        yield from _with_parts(part)


def prepare(dataset: Any, student: nn.Module, *, again: bool = False) -> None:
    """What ``plain_colours`` needs of a training run, before an epoch's first batch.

    Args:
        dataset (Dataset): Of the training, or of the images without labels.
        student (nn.Module): Whose data preprocessor must not mix images.
        again (bool): Whether the run has begun before, and a hook may have put another
            pipeline in the place of the first. That need not have colours: the
            teacher sees the student's images then. Defaults to False.

    Raises:
        ConfigError: If there is nothing to leave out, or it cannot be.
    """
    if getattr(student.data_preprocessor, 'batch_augments', None):
        raise ConfigError(
            f'{OPTION}: data_preprocessor.batch_augments mixes or resizes the '
            "student's batch, which the teacher's would not follow; leave one of both"
        )
    if not split_colours(dataset):
        lacks = (
            f'the pipeline of {type(dataset).__name__} has none of '
            f'{", ".join(sorted(COLOURS))}'
        )
        if not again:
            raise ConfigError(f'{OPTION}=True has no effect: {lacks}')
        MMLogger.get_current_instance().info(
            f"kd_mm: {OPTION}: from now on the teacher sees the student's images: "
            f'{lacks}'
        )
    _split_the_rest(dataset)


def plain_batch(
    preprocessor: nn.Module, samples: Sequence[Any], like: Tensor
) -> Tensor:
    """The images of a batch in their own colours, preprocessed as the student's.

    Args:
        preprocessor (nn.Module): The student's.
        samples (Sequence): Its data samples.
        like (Tensor): Its batch, ``(N, C, H, W)``.

    Returns:
        Tensor: The same shape.

    Raises:
        ConfigError: If the samples bring none.
    """
    images = [getattr(sample, FIELD, None) for sample in samples]
    if any(image is None for image in images):
        raise ConfigError(
            f'{OPTION}: the data samples bring no second image; it is put there when '
            "MMEngine's Runner starts an epoch, so a hook that changes the pipeline "
            'needs priority NORMAL or higher'
        )
    with torch.no_grad():
        data = preprocessor(dict(inputs=images, data_samples=None), False)
    if data['inputs'].shape != like.shape:
        raise ConfigError(
            f"{OPTION}: the student's batch is {tuple(like.shape)} and that of its "
            f'second images {tuple(data["inputs"].shape)}'
        )
    return data['inputs']
