"""Which positions of a dense head matter for boxes: assigned ones, and ones nearby."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .strides import stride_of

CHUNK = 128  # boxes of every image at a time


def square_anchors(
    sizes: Sequence[tuple[int, int]],
    image_size: tuple[int, int],
    *,
    scale: float,
    offset: float = 0.0,
    device: torch.device | None = None,
) -> Tensor:
    """One square anchor for every position of every level.

    Args:
        sizes (Sequence[tuple[int, int]]): Height and width of each level's map.
        image_size (tuple[int, int]): Of the batch, in pixels.
        scale (float): Side of an anchor in strides.
        offset (float): Of its centre in its cell, in strides. Defaults to 0.0.
        device (torch.device, optional): Where to put them.

    Returns:
        Tensor: ``(A, 4)``, x1, y1, x2, y2 in pixels, levels one after the other.
    """
    found, stride = [], 0.0
    for size in sizes:
        stride = stride_of(tuple(size), tuple(image_size), stride)
        y, x = ((torch.arange(n, device=device) + offset) * stride for n in size)
        centres = torch.cartesian_prod(y, x).flip(1)
        half = stride * scale / 2
        found.append(torch.cat([centres - half, centres + half], 1))
    return torch.cat(found)


def overlaps(boxes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """IoU of every box with every anchor, and its DIoU (arXiv 1911.08287).

    Args:
        boxes (Tensor): ``(N, B, 4)``.
        anchors (Tensor): ``(A, 4)``.

    Returns:
        tuple[Tensor, Tensor]: ``(N, B, A)`` both.
    """
    boxes = boxes[:, :, None]
    common, union, hull = meet(boxes, anchors)
    iou = common / union.clamp(min=1e-12)
    diagonal = hull.square().sum(-1).clamp(min=1e-6)
    return iou, iou - _distances(boxes, anchors) / diagonal


def pairwise_giou(boxes: Tensor, others: Tensor) -> Tensor:
    """GIoU (arXiv 1902.09630) of every box with every other one of its row.

    Args:
        boxes (Tensor): ``(M, A, 4)``, x1, y1, x2, y2.
        others (Tensor): ``(M, B, 4)``.

    Returns:
        Tensor: ``(M, A, B)``.
    """
    common, union, hull = meet(boxes[:, :, None], others[:, None])
    area = hull.prod(-1).clamp(min=1e-12)
    return common / union.clamp(min=1e-12) - (area - union) / area


def meet(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Areas of what boxes share and of what they cover, extent of what holds both.

    Args:
        boxes (Tensor): ``(..., 4)``, x1, y1, x2, y2.
        others (Tensor): ``(..., 4)``, broadcast.

    Returns:
        tuple[Tensor, Tensor, Tensor]: ``(...)``, ``(...)``, and ``(..., 2)``.
    """
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., 2:], others[..., 2:])
    common = (high - low).clamp(min=0).prod(-1)
    areas = [(b[..., 2:] - b[..., :2]).prod(-1) for b in (boxes, others)]
    union = areas[0] + areas[1] - common
    low = torch.minimum(boxes[..., :2], others[..., :2])
    high = torch.maximum(boxes[..., 2:], others[..., 2:])
    return common, union, high - low


def _centres(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _distances(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Squared, of centres."""
    return (_centres(boxes) - _centres(anchors)).square().sum(-1)


def box_regions(
    boxes: Tensor,
    anchors: Tensor,
    counts: Sequence[int],
    *,
    top_k: int = 9,
    low: float = 0.25,
) -> tuple[Tensor, Tensor]:
    """The main region of ATSS and the valuable region of LD.

    A box's candidates are the ``top_k`` anchors of every level that are nearest to its
    centre; its threshold t is the mean plus the standard deviation of their IoU. Main
    are candidates with an IoU of t at least and their centre inside the box
    (ATSS, arXiv 1912.02424, algorithm 1); valuable are anchors with a DIoU in
    ``[low * t, t)`` (LD, arXiv 2102.12252, algorithm 1).

    Args:
        boxes (Tensor): ``(N, B, 4)`` in pixels; empty ones count for nothing.
        anchors (Tensor): ``(A, 4)``, levels one after the other.
        counts (Sequence[int]): How many anchors each level has.
        top_k (int): Defaults to 9.
        low (float): Defaults to 0.25.

    Returns:
        tuple[Tensor, Tensor]: ``(N, A)`` both: 1 in the main region, and the highest
        IoU with a box in whose valuable region the anchor is.
    """
    if not boxes.shape[1]:
        nothing = boxes.new_zeros(len(boxes), len(anchors))
        return nothing, nothing
    # a mosaic may have a thousand boxes, and nine tensors of all with all anchors
    parts = [
        _regions_of(some, anchors, counts, top_k, low) for some in boxes.split(CHUNK, 1)
    ]
    main, valuable = (torch.stack(part).amax(0) for part in zip(*parts, strict=True))
    return main, valuable


def _regions_of(
    boxes: Tensor, anchors: Tensor, counts: Sequence[int], top_k: int, low: float
) -> tuple[Tensor, Tensor]:
    """:func:`box_regions` of a few boxes; every box has a threshold of its own."""
    iou, diou = overlaps(boxes, anchors)
    distances = _distances(boxes[:, :, None], anchors)
    nearest, first = [], 0
    for part in distances.split(list(counts), -1):
        least = part.topk(min(top_k, part.shape[-1]), -1, largest=False).indices
        nearest.append(least + first)
        first += part.shape[-1]
    index = torch.cat(nearest, -1)  # (N, B, candidates)
    near = iou.gather(-1, index)
    threshold = (near.mean(-1) + near.std(-1))[..., None]
    centres = _centres(anchors)[index]
    margins = torch.cat(
        [centres - boxes[:, :, None, :2], boxes[:, :, None, 2:] - centres], -1
    )
    real = ((boxes[..., 2:] - boxes[..., :2]) > 0).all(-1)[..., None]
    chosen = (near >= threshold) & (margins.amin(-1) > 0.01) & real
    main = torch.zeros_like(iou).scatter_(-1, index, chosen.to(iou.dtype)).amax(1)
    around = (diou >= low * threshold) & (diou < threshold) & real
    return main, (iou * around).amax(1)
