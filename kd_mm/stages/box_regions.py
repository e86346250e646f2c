"""LD's regions: where a head's boxes are worth comparing."""

import torch

from ..options import Count, NonNegative, Positive, ProperFraction, checked
from ..pair import MAP, FeaturePair
from ..registry import MODELS
from ..utils.boxes import boxes_in_cells
from ..utils.regions import box_regions, square_anchors
from .base import Stage


@MODELS.register_module()
class BoxRegions(Stage):
    """Weight positions by what they know of a box: the main and the valuable region.

    Source: LD, arXiv 2102.12252, section 3.3. The main region is what ATSS assigns to
    the ground truth; the valuable one lies around it, where the teacher still knows
    where the box ends. Positions of the first weigh 1, of the second ``valuable``
    times their anchor's IoU with the box, all others 0. Every position has one square
    anchor, as in ATSS and GFL.

    Args:
        scale (float): Side of an anchor in strides. Defaults to 8.0, as in GFL.
        top_k (int): Candidates of a box on every level. Defaults to 9, as in ATSS.
        low (float): The valuable region begins at this part of ATSS's threshold.
            Defaults to 0.25, as published.
        valuable (float): Weight of the valuable region; 0 leaves it out. Defaults to
            0.25: the authors divide it by 16 and the main region by 4.
        offset (float): Of an anchor's centre in its cell. Defaults to 0.0, as in
            MMDetection's ``AnchorGenerator``.

    Shapes:
        maps as they are; weights ``(N, 1, H, W)``.

    Raises:
        ConfigError: If the data samples have no boxes.
    """

    layouts, same = (MAP,), 'size'
    reads_labels = True

    @checked
    def __init__(
        self,
        *,
        scale: Positive = 8.0,
        top_k: Count = 9,
        low: ProperFraction = 0.25,
        valuable: NonNegative = 0.25,
        offset: NonNegative = 0.0,
    ) -> None:
        super().__init__()
        self.scale, self.top_k, self.low = scale, top_k, low
        self.valuable, self.offset = valuable, offset

    @torch.no_grad()
    def forward(self, pair: FeaturePair) -> FeaturePair:
        sizes = [(s.shape[2], s.shape[3]) for s in pair.student]
        device, image = pair.student[0].device, pair.image_size
        with torch.autocast(device.type, enabled=False):
            boxes, _ = boxes_in_cells(pair.samples, image, image, device)
            anchors = square_anchors(
                sizes, image, scale=self.scale, offset=self.offset, device=device
            )
            counts = [height * width for height, width in sizes]
            main, near = box_regions(
                boxes, anchors, counts, top_k=self.top_k, low=self.low
            )
            weights = (main + self.valuable * near).split(counts, 1)
        for level, (weight, size) in enumerate(zip(weights, sizes, strict=True)):
            weight = weight.unflatten(1, (1, *size))
            before = pair.weight[level]
            pair.weight[level] = weight if before is None else before * weight
        pair.logs['main_positions'] = main.sum() / len(main)
        pair.logs['valuable_positions'] = (near > 0).sum() / len(main)
        return pair
