"""Turn the student's batch into what the teacher's own preprocessor would have made."""

import copy
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from .colours import transforms_of
from .errors import ConfigError


def _normalisation(preprocessor: nn.Module) -> tuple[Tensor, Tensor]:
    """Mean and std as ``(C or 1, 1, 1)``, in the order after any conversion."""
    if getattr(preprocessor, '_enable_normalize', False):
        return preprocessor.mean.detach().float(), preprocessor.std.detach().float()
    return torch.zeros(1, 1, 1), torch.ones(1, 1, 1)


def _swaps_channels(preprocessor: nn.Module) -> bool:
    """Whether red and blue change places on the way in (MMDetection, MMPretrain)."""
    return bool(
        getattr(preprocessor, '_channel_conversion', False)
        or getattr(preprocessor, 'to_rgb', False)
    )


def unknown_pixels(preprocessor: nn.Module, key: str) -> str:
    """What to warn of where nobody can tell what is done to images; '' else.

    Args:
        preprocessor (nn.Module): MMEngine's and the toolboxes' say whether they
            normalise, in ``_enable_normalize``.
        key (str): Where it stands in the config.
    """
    plain = type(preprocessor) in (BaseDataPreprocessor, nn.Identity)
    if plain or hasattr(preprocessor, '_enable_normalize'):
        return ''
    return (
        f'{key} {type(preprocessor).__name__} does not say what it does to the '
        "pixels, so student's and teacher's images are converted as if it did "
        'nothing: if it does, derive it from mmengine.ImgDataPreprocessor, or set '
        '_enable_normalize, mean and std as that does'
    )


def normalised_before(
    bridge: 'InputBridge', student: nn.Module, teacher: nn.Module, dataset: Any
) -> Iterator[str]:
    """What to warn of where the pipeline normalises and the bridge takes its part.

    A teacher whose own preprocessor leaves the images alone, as the student's does,
    gets what the pipeline makes, and that is right.

    Args:
        bridge (InputBridge): Between both.
        student (nn.Module): The student's data preprocessor.
        teacher (nn.Module): The teacher's.
        dataset (Dataset): Of the training, built.

    Raises:
        ConfigError: If mean and std are taken off in the pipeline and, for the teacher
            alone, again. What merely scales (to 0..1) may be meant.
    """
    if not bridge.changes_values and not bridge.flip:
        return
    step = next(filter(_normalises, transforms_of(dataset)), None)
    if step is None:
        return
    text = (
        f"the training pipeline has {type(step).__name__}, and the teacher's "
        "data_preprocessor is not the student's, so the teacher gets images that were "
        'changed twice: move mean, std and the order of the colours from the pipelines '
        "into the student's data_preprocessor"
    )
    again = bool(_normalisation(teacher)[0].any())
    if np.any(step.mean) and again and not _normalisation(student)[0].any():
        raise ConfigError(text)
    yield text + ', unless that is meant'


def _normalises(transform: Any) -> bool:
    """MMCV's, torchvision's or Albumentations' Normalize, if it changes anything."""
    if 'Normalize' not in {kind.__name__ for kind in type(transform).__mro__}:
        return False
    mean, std = (getattr(transform, name, None) for name in ('mean', 'std'))
    if mean is None or std is None:
        return False
    swaps = bool(getattr(transform, 'to_rgb', False))
    return swaps or bool(np.any(mean)) or bool(np.any(np.asarray(std) != 1))


class InputBridge(nn.Module):
    """Un-normalise with the student's constants, re-normalise with the teacher's.

    Covers mean and std, the order of the colour channels, the value of the padding
    and its divisor, and another size of the images. What both share is left alone; two
    equal preprocessors cost nothing. Batch augmentation (mixup, multi-scale) has
    happened before, so teacher and student see the same mixed images. Images may have
    any number of channels as long as both networks take the same; only three are a
    colour whose order can change.

    Args:
        student (nn.Module): The student's data preprocessor.
        teacher (nn.Module): The teacher's.
        ratio (Fraction): Pixels of the teacher for one of the student. Defaults to 1.
        cell (int): The student's batch is padded to multiples of as many pixels before
            it is scaled, so that ``ratio`` holds exactly and cells of that size stay
            whole. Defaults to 1.

    Raises:
        ConfigError: If their constants are for other numbers of channels.
    """

    def __init__(
        self,
        *,
        student: nn.Module,
        teacher: nn.Module,
        ratio: Fraction = Fraction(1),
        cell: int = 1,
    ) -> None:
        super().__init__()
        self.ratio, self.cell = ratio, cell
        mean_s, std_s = _normalisation(student)
        mean_t, std_t = _normalisation(teacher)
        counts = {len(mean_s), len(mean_t)} - {1}
        if len(counts) > 1:
            raise ConfigError(
                f"the student's data_preprocessor is for images of {len(mean_s)} "
                f"channels and the teacher's for {len(mean_t)}: they cannot see the "
                'same images, and nothing converts them'
            )
        self.flip = _swaps_channels(student) != _swaps_channels(teacher)
        if self.flip:
            mean_s, std_s = mean_s.flip(0), std_s.flip(0)
        scale, shift = std_s / std_t, (mean_s - mean_t) / std_t
        self.register_buffer('scale', scale[None], persistent=False)
        self.register_buffer('shift', shift[None], persistent=False)
        self.changes_values = not (
            torch.allclose(scale, torch.ones(()))
            and torch.allclose(shift, torch.zeros(()))
        )
        pad_s = float(getattr(student, 'pad_value', 0) or 0)
        self.pad = float(getattr(teacher, 'pad_value', 0) or 0)
        self.pad_differs = not torch.allclose(
            pad_s * scale + shift, torch.tensor(self.pad), atol=1e-4
        )
        self.divisor = int(getattr(teacher, 'pad_size_divisor', 1) or 1)
        self.own_divisor = int(getattr(student, 'pad_size_divisor', 1) or 1)

    def forward(self, inputs: Tensor, samples: Sequence[Any] | None) -> Tensor:
        """``(N, C, H, W)`` of the student -> ``(N, C, H', W')`` of the teacher."""
        if self.flip and inputs.shape[1] == 3:
            inputs = inputs.flip(1)
        if self.changes_values:
            inputs = torch.addcmul(
                self.shift.to(inputs.dtype), inputs, self.scale.to(inputs.dtype)
            )
        if self.pad_differs and samples:
            inputs = self._repaint_padding(inputs, samples)
        if self.ratio != 1:
            inputs = self._scaled(self._padded(inputs, self.cell))
        return self._padded(inputs, self.divisor)

    def _padded(self, inputs: Tensor, divisor: int) -> Tensor:
        height, width = inputs.shape[2:]
        grow = (-width % divisor, -height % divisor)
        if any(grow):
            inputs = F.pad(inputs, (0, grow[0], 0, grow[1]), value=self.pad)
        return inputs

    def _scaled(self, inputs: Tensor) -> Tensor:
        """By ``ratio``, edge on edge: pixel ``x`` comes from ``(x + 0.5) / ratio``."""
        return F.interpolate(
            inputs,
            self.shown((inputs.shape[2], inputs.shape[3])),
            mode='bilinear',
            align_corners=False,
            antialias=self.ratio < 1,
        )

    def shown(self, size: tuple[int, int]) -> tuple[int, int]:
        """How many of the teacher's pixels show a batch of the student, rounded up."""
        return math.ceil(size[0] * self.ratio), math.ceil(size[1] * self.ratio)

    def resized_samples(
        self, samples: Sequence[Any] | None, size: tuple[int, int]
    ) -> Sequence[Any] | None:
        """Samples that tell of the batch as the teacher sees it.

        DETR-like networks draw their masks from ``batch_input_shape``. The student's
        samples stay as they are.
        """
        if not samples or not hasattr(samples[0], 'set_metainfo'):
            return samples
        copies = [copy.copy(sample) for sample in samples]
        for sample in copies:
            known = {*sample.metainfo_keys()}
            for name in {'batch_input_shape', 'pad_shape'} & known:
                sample.set_metainfo({name: size})
            if self.ratio != 1 and 'img_shape' in known:
                height, width = sample.metainfo['img_shape'][:2]
                sample.set_metainfo(dict(img_shape=self.shown((height, width))))
        return copies

    def _repaint_padding(self, inputs: Tensor, samples: Sequence[Any]) -> Tensor:
        """Fill what lies outside each image with the teacher's padding value."""
        height, width = inputs.shape[2:]
        sizes = [
            tuple(s.metainfo.get('img_shape', (height, width)))[:2] for s in samples
        ]
        if all(size == (height, width) for size in sizes):
            return inputs
        if not any('batch_input_shape' in s.metainfo for s in samples):
            # torchvision's transforms leave ``img_shape`` as it was in the file
            largest = (max(s[0] for s in sizes), max(s[1] for s in sizes))
            if tuple(x + -x % self.own_divisor for x in largest) != (height, width):
                return inputs
        sizes = torch.tensor(sizes).to(inputs.device, non_blocking=True)[
            :, :, None, None
        ]
        rows = torch.arange(height, device=inputs.device)[:, None] >= sizes[:, 0, :]
        columns = torch.arange(width, device=inputs.device) >= sizes[:, 1, :]
        outside = rows.reshape(-1, 1, height, 1) | columns.reshape(-1, 1, 1, width)
        return inputs.masked_fill(outside, self.pad)


def crop(feature: Tensor, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """What of a map lies over the image, without the cells of added padding alone.

    Args:
        feature (Tensor): ``(N, C, H', W')`` of a padded batch. Anything that is not
            a map of the batch (vectors, tokens, attention) is returned as it is.
        padded (tuple[int, int]): Height and width of the padded batch in pixels.
        size (tuple[int, int]): Height and width before padding.

    Returns:
        Tensor: ``(N, C, H, W)`` with ``H = ceil(H' * size / padded)``: the size that a
        network which halves by rounding up would give for the unpadded batch.
    """
    if feature.ndim != 4:
        return feature
    cells = tuple(feature.shape[2:])
    if not _one_stride(cells, padded):
        return feature  # no map
    height, width = (
        math.ceil(n * s / p) for n, s, p in zip(cells, size, padded, strict=True)
    )
    return feature[:, :, :height, :width].contiguous()


def _one_stride(cells: Sequence[int], image: Sequence[int]) -> bool:
    """Whether as many cells, down and across, cover an image with one stride."""
    stride = max(math.ceil(p / n) for p, n in zip(image, cells, strict=True))
    return all(math.ceil(p / stride) == n for p, n in zip(image, cells, strict=True))


def channels_last(shape: Sequence[int], image: tuple[int, int]) -> bool:
    """Whether a feature is a map as ``(N, H, W, C)`` and none as ``(N, C, H, W)``."""
    if len(shape) != 4:
        return False
    return _one_stride(shape[1:3], image) and not _one_stride(shape[2:], image)
