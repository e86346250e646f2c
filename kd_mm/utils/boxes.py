"""The batch's ground-truth boxes on a feature map."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..errors import ConfigError
from .strides import cell_size


def boxes_in_cells(
    samples: Sequence[Any],
    image_size: tuple[int, int],
    map_size: Sequence[int],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Ground truth of all images as one tensor, without a loop over boxes.

    Args:
        samples (Sequence): Data samples with ``gt_instances.bboxes`` and ``labels``,
            in pixels of the images as the network sees them.
        image_size (tuple[int, int]): Height and width of the batch in pixels.
        map_size (Sequence[int]): Height and width of the map.
        device (torch.device): Where to put them.

    Returns:
        tuple[Tensor, Tensor]: Boxes ``(N, B, 4)``, x1, y1, x2, y2 in cells, B the most
        of any image, and labels ``(N, B)``. Images with fewer have empty boxes of
        label 0 at the end.

    Raises:
        ConfigError: If a sample has no boxes.
    """
    if not all('gt_instances' in sample for sample in samples):
        raise ConfigError(
            'this needs the boxes of the ground truth, and the data samples have no '
            'gt_instances: it is for detectors'
        )
    found = [sample.gt_instances for sample in samples]
    boxes = [getattr(g.bboxes, 'tensor', g.bboxes).to(device).float() for g in found]
    labels = [g.labels.to(device) for g in found]
    tall, wide = cell_size(tuple(map_size), image_size)
    padded = pad_sequence(boxes, batch_first=True)
    x, y = padded[..., 0::2] / wide, padded[..., 1::2] / tall
    padded = torch.stack([x, y], -1).flatten(-2)
    return padded, pad_sequence(labels, batch_first=True)


def cells_inside(low: Tensor, high: Tensor, size: int) -> Tensor:
    """Which cells of one axis intervals cover: all they touch, and at least one.

    Args:
        low (Tensor): ``(...)``, where intervals begin, in cells.
        high (Tensor): ``(...)``, where they end.
        size (int): Number of cells.

    Returns:
        Tensor: ``(..., size)``, bool.
    """
    first = low.floor().clamp(0, size - 1)
    last = torch.maximum(high.ceil(), first + 1)
    cells = torch.arange(size, device=low.device, dtype=low.dtype)
    return (cells >= first[..., None]) & (cells < last[..., None])
