"""Focal and global distillation of detectors."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ContextBlock
from torch import Tensor, nn

from ..options import NonNegative, Positive, checked
from ..pair import MAP, FeaturePair
from ..registry import MODELS
from ..utils.boxes import boxes_in_cells, cells_inside
from .base import Criterion


def attention(feature: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Spatial and channel attention, each with a mean of 1.

    Args:
        feature (Tensor): ``(N, C, H, W)``.
        tau (float): Temperature.

    Returns:
        tuple[Tensor, Tensor]: ``(N, 1, H, W)`` and ``(N, C, 1, 1)``. Source: FGD,
        arXiv 2111.11837, equations 4 to 7.
    """
    n, c, height, width = feature.shape
    size = feature.abs()
    spatial = (size.mean(1).flatten(1) / tau).softmax(1) * (height * width)
    channel = (size.mean((2, 3)) / tau).softmax(1) * c
    return spatial.view(n, 1, height, width), channel.view(n, c, 1, 1)


def focal_masks(
    samples: Sequence[Any], image_size: tuple[int, int], size: Sequence[int], device
) -> tuple[Tensor, Tensor]:
    """Weights of foreground and background positions.

    Args:
        samples (Sequence): Data samples with boxes.
        image_size (tuple[int, int]): Height and width of the batch in pixels.
        size (Sequence[int]): Height and width of the map.
        device (torch.device): Where to.

    Returns:
        tuple[Tensor, Tensor]: Two ``(N, 1, H, W)``. In the foreground one over the
        number of cells of the smallest box there, so that every object weighs 1; in the
        background one over the number of its cells. Source: FGD, arXiv 2111.11837,
        equations 2 and 3.
    """
    height, width = size
    boxes, _ = boxes_in_cells(samples, image_size, size, device)
    real = (boxes[..., 2:] > boxes[..., :2]).all(-1)[..., None]  # (N, B, 1)
    across = (cells_inside(boxes[..., 0], boxes[..., 2], width) & real).float()
    down = cells_inside(boxes[..., 1], boxes[..., 3], height).float()
    area = (across.sum(-1) * down.sum(-1)).clamp(min=1)  # (N, B)
    inside = down[..., None] * across[:, :, None] / area[..., None, None]
    none = inside.new_zeros(len(boxes), 1, height, width)  # an image without boxes
    foreground = torch.cat([none, inside], 1).amax(1, keepdim=True)
    background = (foreground == 0).float()
    return foreground, background / background.sum((2, 3), keepdim=True).clamp(min=1)


@MODELS.register_module()
class FGDLoss(Criterion):
    """FGD, arXiv 2111.11837: foreground, background, attention and relations apart.

    Per level, with the teacher's attention in both maps of :func:`focal_masks`:

    - foreground and background: squared differences, mean over channels, sum over
      positions of mask times attention. Every object, and the background, counts once,
      whatever its size (equation 8).
    - attention: mean absolute difference of the two sides' attention (equation 9).
    - relation: mean squared difference after a global context block on each side,
      which learn with the student (equations 10 and 11).

    The authors sum where we average, so their weights are translated: foreground,
    background and the channels' attention times C = 256, exactly; the attention of
    positions has the same weight as that of channels (theirs grows with the image);
    relation times C H W of 25 x 42 positions, P5 of an 800 x 1333 image. 2e-3, 2e-4,
    3e-4 and 5e-6, which DPK's authors use for RetinaNet, become the defaults; their
    5e-5, 2.5e-5, 5e-5 and 5e-7 for Faster R-CNN 0.0128, 0.0064, 0.0128 and 0.134.

    A weight map (DAM) multiplies both masks.

    Args:
        foreground (float): Defaults to 0.512.
        background (float): Defaults to 0.0512.
        attention (float): Defaults to 0.0768.
        relation (float): Defaults to 1.34.
        tau (float): Temperature of the attention. Defaults to 0.5.
        weight (float): Weight of the link. Defaults to 1.0.

    Raises:
        ConfigError: On anything but maps of equal shape.
    """

    reads_labels = True

    layouts = (MAP,)

    @checked
    def __init__(
        self,
        *,
        foreground: NonNegative = 0.512,
        background: NonNegative = 0.0512,
        attention: NonNegative = 0.0768,
        relation: NonNegative = 1.34,
        tau: Positive = 0.5,
        weight: NonNegative = 1.0,
    ) -> None:
        super().__init__(weight=weight)
        self.foreground, self.background = foreground, background
        self.attention, self.relation, self.tau = attention, relation, tau
        self.contexts = nn.ModuleDict()

    def setup(self, pair: FeaturePair) -> None:
        super().setup(pair)
        for side, features in (('student', pair.student), ('teacher', pair.teacher)):
            self.contexts[side] = nn.ModuleList(
                ContextBlock(in_channels=feature.shape[1], ratio=1 / 2)
                for feature in features
            )

    def total(self, pair: FeaturePair) -> Tensor:
        terms = []
        for level, (student, teacher) in enumerate(
            zip(pair.student, pair.teacher, strict=True)
        ):
            masks = focal_masks(
                pair.samples, pair.image_size, student.shape[2:], student.device
            )
            if (weight := pair.weight[level]) is not None:
                masks = (masks[0] * weight.float(), masks[1] * weight.float())
            terms.append(self.level(level, student.float(), teacher.float(), masks))
        return torch.stack(terms).sum()

    def level(
        self,
        level: int,
        student: Tensor,
        teacher: Tensor,
        masks: tuple[Tensor, Tensor],
    ) -> Tensor:
        """The four terms of one level, weighted."""
        spatial_s, channel_s = attention(student, self.tau)
        spatial_t, channel_t = attention(teacher, self.tau)
        error = ((student - teacher).square() * channel_t).mean(1, keepdim=True)
        error = error * spatial_t
        focal = [(error * mask).sum((1, 2, 3)).mean() for mask in masks]
        apart = F.l1_loss(spatial_s, spatial_t) + F.l1_loss(channel_s, channel_t)
        seen = [
            self.contexts[side][level](feature.contiguous())
            for side, feature in (('student', student), ('teacher', teacher))
        ]
        return (
            self.foreground * focal[0]
            + self.background * focal[1]
            + self.attention * apart
            + self.relation * F.mse_loss(*seen)
        )
