"""ShuffleNet V1 and V2 for 32 x 32 images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..options import Natural, checked
from ..registry import MODELS
from .base import StagedBackbone, conv1x1

STEM = 24
V1_WIDTHS, V1_BLOCKS, V1_GROUPS = (240, 480, 960), (4, 8, 4), 3
V2_WIDTHS, V2_BLOCKS, V2_OUT = (116, 232, 464), (3, 7, 3), 1024


def depthwise(width: int, stride: int) -> nn.Conv2d:
    """A depthwise 3x3 convolution."""
    return nn.Conv2d(width, width, 3, stride, padding=1, groups=width, bias=False)


class Shuffle(nn.ChannelShuffle):
    """PyTorch's; the fused one of PyTorch 2.1 has no derivative on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class BlockV1(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; concatenates at stride 2.

    Args:
        width_in (int): Channels of the input.
        width (int): Channels that the convolutions give.
        stride (int): 1 adds the input, 2 appends its average.
        groups (int): Of the 1x1 convolutions; the first has one behind the stem.
    """

    def __init__(self, width_in: int, width: int, *, stride: int, groups: int) -> None:
        super().__init__()
        mid = width // 4
        first = 1 if width_in == STEM else groups
        self.conv1 = conv1x1(width_in, mid, groups=first)
        self.bn1 = nn.BatchNorm2d(mid)
        self.relu1 = nn.ReLU(inplace=True)
        self.shuffle = Shuffle(first)
        self.conv2 = depthwise(mid, stride)
        self.bn2 = nn.BatchNorm2d(mid)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = conv1x1(mid, width, groups=groups)
        self.bn3 = nn.BatchNorm2d(width)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.shuffle(self.relu1(self.bn1(self.conv1(x))))
        out = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(out)))))
        if self.pool is None:
            return self.relu(out + x)
        return self.relu(torch.cat([out, self.pool(x)], 1))


@MODELS.register_module()
class ShuffleNetV1CIFAR(StagedBackbone):
    """ShuffleNet, arXiv 1707.01083, three groups, as in CRD's release for CIFAR.

    Tap ``backbone.layer3`` for the last stage, ``backbone.layer3.3.relu@input`` for
    what is in front of its last ReLU.

    Args:
        out_indices (Sequence[int], optional): Stages that are returned, 0 to 2.
            Defaults to None, the last.
        init_cfg (dict | list, optional): See :class:`StagedBackbone`.

    Shapes:
        ``(N, 3, H, W)`` -> tuple of ``(N, C, H / s, W / s)``, s = 2, 4, 8 and
        C = 240, 480, 960.
    """

    @checked
    def __init__(
        self,
        *,
        out_indices: Sequence[Natural] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.conv1 = conv1x1(3, STEM)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu = nn.ReLU()
        width_in = STEM
        for index, (width, count) in enumerate(zip(V1_WIDTHS, V1_BLOCKS, strict=True)):
            blocks = [
                BlockV1(
                    width if block else width_in,
                    width if block else width - width_in,  # the input is appended
                    stride=1 if block else 2,
                    groups=V1_GROUPS,
                )
                for block in range(count)
            ]
            self.add_module(f'layer{index + 1}', nn.Sequential(*blocks))
            width_in = width
        self.stages(('layer1', 'layer2', 'layer3'), out_indices)

    def stem(self, x: Tensor) -> Tensor:
        return self.relu(self.bn1(self.conv1(x)))


class DownBlockV2(nn.Module):
    """Both halves of the output from all of the input, at stride 2.

    Args:
        width_in (int): Channels of the input.
        width (int): Channels of the output.
    """

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1, self.bn1 = depthwise(width_in, 2), nn.BatchNorm2d(width_in)
        self.conv2, self.bn2 = conv1x1(width_in, half), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = conv1x1(width_in, half), nn.BatchNorm2d(half)
        self.conv4, self.bn4 = depthwise(half, 2), nn.BatchNorm2d(half)
        self.conv5, self.bn5 = conv1x1(half, half), nn.BatchNorm2d(half)
        self.shuffle = Shuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn2(self.conv2(self.bn1(self.conv1(x)))).relu()
        right = self.bn4(self.conv4(self.bn3(self.conv3(x)).relu()))
        right = self.bn5(self.conv5(right)).relu()
        return self.shuffle(torch.cat([left, right], 1))


class BlockV2(nn.Module):
    """One half of the channels passes, the other is convolved; then they mix.

    Args:
        width (int): Channels of input and output.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1, self.bn1 = conv1x1(half, half), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = depthwise(half, 1), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = conv1x1(half, half), nn.BatchNorm2d(half)
        self.shuffle = Shuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        passed, out = x.chunk(2, dim=1)
        out = self.bn2(self.conv2(self.bn1(self.conv1(out)).relu()))
        out = self.bn3(self.conv3(out)).relu()
        return self.shuffle(torch.cat([passed, out], 1))


@MODELS.register_module()
class ShuffleNetV2CIFAR(StagedBackbone):
    """ShuffleNet V2 1x, arXiv 1807.11164, as in CRD's release for CIFAR.

    ``backbone.layer3`` is the last stage; the output of the backbone has 1024 channels,
    behind one more convolution and ReLU.

    Args:
        out_indices (Sequence[int], optional): Stages that are returned, 0 to 2.
            Defaults to None, the last.
        init_cfg (dict | list, optional): See :class:`StagedBackbone`.

    Shapes:
        ``(N, 3, H, W)`` -> tuple of ``(N, C, H / s, W / s)``, s = 2, 4, 8 and
        C = 116, 232, 1024.
    """

    @checked
    def __init__(
        self,
        *,
        out_indices: Sequence[Natural] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.conv1 = conv1x1(3, STEM)
        self.bn1 = nn.BatchNorm2d(STEM)
        width_in = STEM
        for index, (width, count) in enumerate(zip(V2_WIDTHS, V2_BLOCKS, strict=True)):
            rest = (BlockV2(width) for _ in range(count))
            stage = nn.Sequential(DownBlockV2(width_in, width), *rest)
            self.add_module(f'layer{index + 1}', stage)
            width_in = width
        self.conv2 = conv1x1(width_in, V2_OUT)
        self.bn2 = nn.BatchNorm2d(V2_OUT)
        self.stages(('layer1', 'layer2', 'layer3'), out_indices)

    def stem(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv1(x)).relu()

    def tail(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(x)).relu()
