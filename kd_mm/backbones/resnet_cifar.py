"""ResNets of three stages for 32 x 32 images."""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..options import Count, Natural, checked
from ..registry import MODELS
from .base import StagedBackbone, conv1x1, conv3x3


class PaddedShortcut(nn.Module):
    """Option A: every second position, zeros for the new channels; no parameters.

    Args:
        extra (int): Number of new channels, half of them on each side.
        stride (int): Of the block.
    """

    def __init__(self, *, extra: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        before = self.extra // 2
        return F.pad(x, (0, 0, 0, 0, before, self.extra - before))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; ``relu2`` is used once, and not in place.

    Args:
        width_in (int): Channels of the input.
        width (int): Channels inside and of the output.
        stride (int): Of the first convolution.
        shortcut (str): 'A' or 'B', where the shape changes.
    """

    def __init__(self, width_in: int, width: int, *, stride: int, shortcut: str):
        super().__init__()
        self.conv1 = conv3x3(width_in, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.downsample = None
        if stride != 1 or width_in != width:
            self.downsample = (
                PaddedShortcut(extra=width - width_in, stride=stride)
                if shortcut == 'A'
                else nn.Sequential(
                    conv1x1(width_in, width, stride), nn.BatchNorm2d(width)
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out = out + (x if self.downsample is None else self.downsample(x))
        return self.relu2(out)


@MODELS.register_module()
class ResNetCIFAR(StagedBackbone):
    """ResNet for CIFAR, arXiv 1512.03385, section 4.2.

    Depths 8, 14, 20, 32, 44, 56, 110; "8x4" and "32x4" of the distillation literature
    are depth 8 and 32 with ``channels=(32, 64, 128, 256)``. Tap ``backbone.layer3`` for
    a stage's output and ``backbone.layer3.N.relu2@input``, N its last block, for what
    is in front of the last ReLU.

    Args:
        depth (int): 6 n + 2.
        channels (Sequence[int]): Widths of the stem and of the three stages. Defaults
            to (16, 16, 32, 64).
        shortcut (str): 'B' projects by a 1x1 convolution where the shape changes, 'A'
            pads with zeros, as in the paper's CIFAR experiments. Defaults to 'B'.
        out_indices (Sequence[int], optional): Stages that are returned, 0 to 2.
            Defaults to None, the last.
        init_cfg (dict | list, optional): See :class:`StagedBackbone`.

    Shapes:
        ``(N, 3, H, W)`` -> tuple of ``(N, C, H / s, W / s)``, s = 1, 2, 4.

    Raises:
        ConfigError: For another depth, number of channels or shortcut.
    """

    @checked
    def __init__(
        self,
        *,
        depth: int,
        channels: Sequence[Count] = (16, 16, 32, 64),
        shortcut: Literal['A', 'B'] = 'B',
        out_indices: Sequence[Natural] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if depth < 8 or (depth - 2) % 6 or len(channels) != 4:
            raise ConfigError(
                'ResNetCIFAR needs depth = 6 n + 2 and four channels, got '
                f'depth={depth}, channels={tuple(channels)}'
            )
        stem, *widths = channels
        self.conv1 = conv3x3(3, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        for index, width in enumerate(widths):
            blocks = [
                BasicBlock(
                    width if block else channels[index],
                    width,
                    stride=2 if index and not block else 1,
                    shortcut=shortcut,
                )
                for block in range((depth - 2) // 6)
            ]
            self.add_module(f'layer{index + 1}', nn.Sequential(*blocks))
        self.stages(('layer1', 'layer2', 'layer3'), out_indices)

    def stem(self, x: Tensor) -> Tensor:
        return self.relu(self.bn1(self.conv1(x)))
