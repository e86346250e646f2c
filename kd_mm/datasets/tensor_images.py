"""Small images as one tensor, cropped and mirrored a batch at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ..errors import ConfigError
from ..options import Fraction, Natural, checked
from ..registry import DATASETS, FUNCTIONS


@FUNCTIONS.register_module()
def ready_batch(batch: dict) -> dict:
    """Collate function for data sets that give whole batches."""
    return batch


@DATASETS.register_module()
class TensorImages(Dataset):
    """Any classification data set of small, equal images, held as one uint8 tensor.

    For data like CIFAR, where the usual pipeline, image by image in Python, is slower
    than the network. A batch is cut out of the tensor in one indexing operation. The
    data loader asks for whole batches by itself; the config says::

        train_dataloader = dict(
            num_workers=0,
            collate_fn=dict(type='kd_mm.ready_batch'),
            dataset=dict(
                type='kd_mm.TensorImages',
                dataset=dict(type='CIFAR100', ..., pipeline=[dict(type='PackInputs')]),
                crop=4,
                flip=0.5))

    Crops and flips are distributed as those of MMPretrain's
    ``RandomCrop(crop_size=H, padding=crop)`` and ``RandomFlip(prob=flip)``. Random
    numbers come from PyTorch's global generator of ``device``, which MMEngine seeds.

    Args:
        dataset (dict): Config of a data set of MMPretrain whose items are ready: its
            pipeline ends in ``PackInputs`` and has nothing random in it.
        crop (int): Zeros around an image before a random part of its own size is cut
            out; 0: none. Defaults to 0.
        flip (float): Probability of a mirrored image. Defaults to 0.0.
        device (str, optional): Where the tensor lies. Defaults to None: the accelerator
            where there is one, else the CPU. An accelerator needs ``num_workers=0``.

    Shapes:
        A batch has ``inputs``, ``(N, 3, H, W)`` of uint8, and ``data_samples``, a list
        of N with ``gt_label`` and ``sample_idx``.

    Raises:
        ConfigError: If images differ in size or are not uint8, if items have no label,
            or for numbers out of range.
    """

    @checked
    def __init__(
        self,
        *,
        dataset: dict,
        crop: Natural = 0,
        flip: Fraction = 0.0,
        device: str | None = None,
    ) -> None:
        # kept, as by any wrapper: who wants images as they are finds them there
        self.dataset = MMENGINE_DATASETS.build(dataset)
        self.metainfo: dict[str, Any] = self.dataset.metainfo
        self.crop, self.flip = crop, flip
        self.device = torch.device(device or get_device())
        images, self.labels, self.sample = _read(self.dataset)
        self.size = images.shape[2:]
        padded = torch.nn.functional.pad(images, (crop, crop, crop, crop))
        self.images = padded.to(self.device)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        """One image as any data set gives it, for tools that look at single items."""
        batch = self.__getitems__([index])
        return dict(inputs=batch['inputs'][0], data_samples=batch['data_samples'][0])

    def __getitems__(self, indices: Sequence[int]) -> dict:
        """A whole batch; what PyTorch's data loader calls where it is there."""
        if self.device.type != 'cpu' and get_worker_info() is not None:
            raise ConfigError(
                f'TensorImages on {self.device} needs num_workers=0: worker processes '
                'cannot share it'
            )
        samples = [self.sample(metainfo=dict(sample_idx=i)) for i in indices]
        for sample, index in zip(samples, indices, strict=True):
            sample.set_field(self.labels[index], 'gt_label')
        chosen = torch.tensor(indices).to(self.device, non_blocking=True)
        return dict(inputs=self._cut(chosen), data_samples=samples)

    def _cut(self, indices: Tensor) -> Tensor:
        """``(N,)`` -> ``(N, 3, H, W)``."""
        count, (height, width) = len(indices), self.size
        here = dict(device=self.device)
        top, left = torch.randint(2 * self.crop + 1, (2, count), **here)
        # all places at once, as a view: (images, 3, tops, lefts, H, W)
        windows = self.images.unfold(2, height, 1).unfold(3, width, 1)
        parts = windows[indices, :, top, left]
        if not self.flip:
            return parts
        mirrored = torch.rand(count, 1, 1, 1, **here) < self.flip
        return torch.where(mirrored, parts.flip(3), parts)


def _read(source: Dataset) -> tuple[Tensor, list[Tensor], type]:
    """All images, ``(N, 3, H, W)``, labels, ``(1,)`` each, and the kind of sample."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for index in range(len(source)):
        item = source[index]
        image, sample = item['inputs'], item['data_samples']
        if image.dtype != torch.uint8 or (images and image.shape != images[0].shape):
            raise ConfigError(
                'TensorImages holds uint8 images of one size; item '
                f'{index} is {image.dtype} of {tuple(image.shape)}'
            )
        if 'gt_label' not in sample or sample.gt_label.numel() != 1:
            raise ConfigError(f'TensorImages: item {index} has not one gt_label')
        images.append(image)
        labels.append(sample.gt_label)
    if not images:
        raise ConfigError('TensorImages: the data set is empty')
    return torch.stack(images), labels, type(sample)
