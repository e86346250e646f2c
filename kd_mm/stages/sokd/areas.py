"""Areas on a feature map: predicted, selected, and turned into weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...utils.boxes import boxes_in_cells, cells_inside


@dataclass
class Areas:
    """A prediction on one level, as in CenterNet.

    Attributes:
        heat (Tensor): ``(N, K, H, W)`` in [0, 1], one map for every kind of area.
        size (Tensor): ``(N, 2, H, W)``, width and height in cells.
        offset (Tensor): ``(N, 2, H, W)``, from the cell's corner to the centre, x, y.
    """

    heat: Tensor
    size: Tensor
    offset: Tensor

    def difference(self, other: 'Areas', weights: Sequence[float]) -> Tensor:
        """Weighted sum of the three maps' mean squared differences, in fp32."""
        return sum(
            weight * F.mse_loss(getattr(self, name), getattr(other, name))
            for name, weight in zip(('heat', 'size', 'offset'), weights, strict=True)
        )


def find_areas(areas: Areas, top_k: int) -> Tensor:
    """Boxes around the highest peaks of every image.

    A peak is a cell that no neighbour exceeds in its map.

    Args:
        areas (Areas): A prediction.
        top_k (int): How many, over all maps and positions; fewer where there are not
            as many entries.

    Returns:
        Tensor: ``(N, top_k, 4)``, x1, y1, x2, y2 in cells, within the map. A place
        with no peak left is an empty box.
    """
    heat = areas.heat
    n, kinds, height, width = heat.shape
    peaks = heat.where(heat == highest_nearby(heat), 0)
    score, place = peaks.flatten(1).topk(min(top_k, kinds * height * width), dim=1)
    place = place % (height * width)  # (N, K)
    x, y = place % width, place.div(width, rounding_mode='floor')

    def at(field: Tensor) -> Tensor:  # (N, K, 2)
        index = place[:, None].expand(n, 2, -1)
        return field.flatten(2).gather(2, index).transpose(1, 2)

    centre = torch.stack([x, y], -1) + at(areas.offset)
    half = at(areas.size) / 2
    corners = torch.stack([centre - half, centre + half], -2)  # (N, K, 2, 2)
    x, y = corners[..., 0].clamp(0, width), corners[..., 1].clamp(0, height)
    boxes = torch.stack([x, y], -1).flatten(-2)
    return boxes.where((score > 0)[..., None], boxes.new_full((), -1.0))


def highest_nearby(heat: Tensor) -> Tensor:
    """The largest value of every cell and its eight neighbours, without a gradient.

    Args:
        heat (Tensor): ``(N, K, H, W)``.
    """
    heat = heat.detach()
    if heat.device.type != 'cpu':
        return F.max_pool2d(heat, 3, stride=1, padding=1)
    # on a CPU pooling goes cell by cell and keeps indices: 3 to 20 times as long
    for axis in (2, 3):
        last = heat.shape[axis] - 1
        before, after = heat.narrow(axis, 0, last), heat.narrow(axis, 1, last)
        heat = heat.clone()
        for cells, others in ((1, before), (0, after)):
            own = heat.narrow(axis, cells, last)
            torch.maximum(own, others, out=own)
    return heat


def spread(heat: Tensor) -> Tensor:
    """The largest standard deviation of a map over images and positions.

    Args:
        heat (Tensor): ``(N, K, H, W)``.
    """
    axes = (0, 2, 3)  # in two passes: ``std`` takes 2 to 7 times as long on a CPU
    off = torch.linalg.vector_norm(heat - heat.mean(axes, keepdim=True), dim=axes)
    return off.max() / math.sqrt(heat.numel() / heat.shape[1])


def area_mask(
    boxes: Tensor, size: Sequence[int], *, overlap: str, normalise: str
) -> Tensor:
    """Weights of positions.

    A box covers every cell it touches, and at least the one it begins in.

    Args:
        boxes (Tensor): ``(N, K, 4)``, x1, y1, x2, y2 in cells; negative: no box.
        size (Sequence[int]): Height and width of the map.
        overlap (str): 'sum' of the boxes, or 'max'.
        normalise (str): 'all' leaves 0, 1, 2 ...; 'area' scales every image to a mean
            of 1, so that a mean over all positions is one over the areas.

    Returns:
        Tensor: ``(N, 1, H, W)``, 0 outside of all boxes.
    """
    height, width = size
    exists = boxes[..., 0] >= 0
    across = cells_inside(boxes[..., 0], boxes[..., 2], width) & exists[..., None]
    down = cells_inside(boxes[..., 1], boxes[..., 3], height)
    mask = torch.einsum('nkh,nkw->nhw', down.float(), across.float())[:, None]
    if overlap == 'max':
        mask = mask.clamp(max=1)
    if normalise == 'area':
        mask = mask / mask.mean((2, 3), keepdim=True).clamp(min=1e-6)
    return mask


def activation_loss(areas: Areas, feature: Tensor, weights: Tensor) -> Tensor:
    """Binary cross-entropy of the heatmap against class activation maps.

    The target is the positive part of ``sum_c w_c F_c`` over its maximum in the image,
    so it is between 0 and 1 and never the same everywhere. Source of the map: arXiv
    1512.04150, equation 2; the normalisation is our choice.

    Args:
        areas (Areas): A prediction on the teacher's side.
        feature (Tensor): ``(N, C, H, W)``, what the teacher's classifier averages.
        weights (Tensor): ``(N, C)``, the classifier's of each image's label.
    """
    heat = areas.heat
    maps = torch.einsum('nc,nchw->nhw', weights, feature.detach().float()).relu()
    target = maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-6)
    with torch.autocast(heat.device.type, enabled=False):
        return F.binary_cross_entropy(heat, target[:, None].to(heat).expand_as(heat))


def ground_truth_loss(
    areas: Areas, samples: Sequence[Any], image_size: tuple[int, int]
) -> Tensor:
    """CenterNet's losses of one level against the boxes of the batch.

    Focal loss on a heatmap of Gaussians, a third of whose boxes' half sides is the
    standard deviation, plus 0.1 L1 of the size and 1 L1 of the offset at the centres.
    Source: arXiv 1904.07850, equations 1 to 4; elliptic Gaussians are our choice.

    Args:
        areas (Areas): A prediction.
        samples (Sequence): Data samples with ``gt_instances.bboxes`` in pixels.
        image_size (tuple[int, int]): Height and width of the batch in pixels.
    """
    heat = areas.heat
    n, kinds, height, width = heat.shape
    boxes, labels = boxes_in_cells(samples, image_size, (height, width), heat.device)
    if boxes.shape[1] == 0:
        return heatmap_loss(heat, torch.zeros_like(heat))

    kind = labels % kinds  # (N, B)
    low, high = boxes.split(2, dim=-1)
    size = high - low
    real = (size > 0).all(-1)  # padding is empty
    centre = ((low + high) / 2).clamp(min=0)
    x, y = centre.floor().unbind(-1)
    cell = torch.stack([x.clamp(max=width - 1), y.clamp(max=height - 1)], -1)

    sigma = (size / 6).clamp(min=1 / 3)
    columns = torch.arange(width, device=heat.device)
    rows = torch.arange(height, device=heat.device)
    across = ((columns - cell[..., :1]) / sigma[..., :1]).square()  # (N, B, W)
    down = ((rows - cell[..., 1:]) / sigma[..., 1:]).square()  # (N, B, H)
    bumps = torch.exp(-(down[..., None] + across[:, :, None]) / 2)  # (N, B, H, W)
    bumps = bumps * real[..., None, None]
    target = torch.zeros_like(heat).scatter_reduce(
        1, kind[..., None, None].expand_as(bumps), bumps, reduce='amax'
    )

    count = real.sum().clamp(min=1)
    place = (cell[..., 1] * width + cell[..., 0]).long()  # (N, B)
    loss = heatmap_loss(heat, target) / count
    for field, wanted, factor in (
        (areas.size, size, 0.1),
        (areas.offset, centre - cell, 1.0),
    ):
        index = place[:, None].expand(n, 2, -1)
        got = field.flatten(2).gather(2, index).transpose(1, 2)  # (N, B, 2)
        loss = loss + factor * ((got - wanted).abs() * real[..., None]).sum() / count
    return loss


def heatmap_loss(heat: Tensor, target: Tensor) -> Tensor:
    """Focal loss of a heatmap, summed: CornerNet, arXiv 1808.01244, equation 1.

    MMDetection's ``gaussian_focal_loss``; classifiers have areas without it.

    Args:
        heat (Tensor): In [0, 1].
        target (Tensor): As ``heat``; 1 where the centre of an object is.

    Returns:
        Tensor: A scalar.
    """
    eps = 1e-12
    found = -(heat + eps).log() * (1 - heat).pow(2) * target.eq(1)
    other = -(1 - heat + eps).log() * heat.pow(2) * (1 - target).pow(4)
    return (found + other).sum()
