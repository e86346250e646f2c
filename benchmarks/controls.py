"""Stages that are nobody's method: what a method is compared with."""

import torch

from kd_mm.pair import FeaturePair
from kd_mm.registry import MODELS
from kd_mm.stages import Stage
from kd_mm.stages.sokd.areas import area_mask


@MODELS.register_module(force=True)
class FixedCells(Stage):
    """DAM's weight map with boxes that look at nothing, the same for all images.

    Args:
        boxes (int): How many, at random places.
        side (float): Of a box, in sides of the map.
        seed (int): Of the places.
    """

    same = 'size'

    def __init__(self, *, boxes: int = 8, side: float = 0.25, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        corner = torch.rand(boxes, 2, generator=generator) * (1 - side)
        self.register_buffer('boxes', torch.cat([corner, corner + side], 1))

    def forward(self, pair: FeaturePair) -> FeaturePair:
        """Weigh the positions of every level."""
        pair.weight = []
        for feature in pair.student:
            size = feature.shape[2:]
            scale = self.boxes.new_tensor([size[1], size[0]] * 2)
            boxes = (self.boxes * scale).expand(len(feature), -1, -1)
            mask = area_mask(boxes, size, overlap='sum', normalise='area')
            pair.weight.append(mask)
        return pair
