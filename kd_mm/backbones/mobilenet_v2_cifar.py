"""MobileNetV2 for 32 x 32 images."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..errors import ConfigError
from ..options import Count, Natural, Positive, checked
from ..registry import MODELS
from .base import StagedBackbone, conv1x1

# width at widen_factor 1, number of blocks, stride of the first
_STAGES = (
    (16, 1, 1),
    (24, 2, 1),
    (32, 3, 2),
    (64, 4, 2),
    (96, 3, 1),
    (160, 3, 2),
    (320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter by depthwise 3x3, project by 1x1 (ReLU, not ReLU6).

    Args:
        width_in (int): Channels of the input.
        width (int): Channels of the output.
        stride (int): Of the depthwise convolution.
        expand (int): Widening inside.
    """

    def __init__(self, width_in: int, width: int, *, stride: int, expand: int) -> None:
        super().__init__()
        mid = width_in * expand
        self.conv = nn.Sequential(
            conv1x1(width_in, mid),
            nn.BatchNorm2d(mid),
            nn.ReLU(inplace=True),
            nn.Conv2d(mid, mid, 3, stride, padding=1, groups=mid, bias=False),
            nn.BatchNorm2d(mid),
            nn.ReLU(inplace=True),
            conv1x1(mid, width),
            nn.BatchNorm2d(width),
        )
        self.residual = stride == 1 and width_in == width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


@MODELS.register_module()
class MobileNetV2CIFAR(StagedBackbone):
    """MobileNetV2, arXiv 1801.04381, with the strides of CRD's release for CIFAR.

    Stages are linear: ``backbone.blocks.6`` is the last of them, and the output of the
    backbone has 1280 channels, behind one more convolution and ReLU.

    Args:
        widen_factor (float): Multiplies the widths of all but the last convolution.
            Defaults to 0.5, the distillation literature's.
        expand (int): Widening inside the blocks after the first. Defaults to 6.
        out_indices (Sequence[int], optional): Stages that are returned, 0 to 6.
            Defaults to None, the last.
        init_cfg (dict | list, optional): See :class:`StagedBackbone`.

    Shapes:
        ``(N, 3, H, W)`` -> tuple of ``(N, C, H / s, W / s)``,
        s = 2, 2, 4, 8, 8, 16, 16.

    Raises:
        ConfigError: If a width vanishes.
    """

    @checked
    def __init__(
        self,
        *,
        widen_factor: Positive = 0.5,
        expand: Count = 6,
        out_indices: Sequence[Natural] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if int(16 * widen_factor) < 1:
            raise ConfigError(
                f'MobileNetV2CIFAR needs channels, got widen_factor={widen_factor}'
            )
        width_in = int(32 * widen_factor)
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, width_in, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(width_in),
            nn.ReLU(),
        )
        self.blocks = nn.ModuleList()
        for index, (width, count, stride) in enumerate(_STAGES):
            width = int(width * widen_factor)
            stage = nn.Sequential()
            for block in range(count):
                stage.append(
                    InvertedResidual(
                        width_in,
                        width,
                        stride=1 if block else stride,
                        expand=expand if index else 1,
                    )
                )
                width_in = width
            self.blocks.append(stage)
        out = max(1280, int(1280 * widen_factor))
        self.conv2 = nn.Sequential(
            conv1x1(width_in, out), nn.BatchNorm2d(out), nn.ReLU()
        )
        self.stages([f'blocks.{i}' for i in range(len(_STAGES))], out_indices)

    def stem(self, x: Tensor) -> Tensor:
        return self.conv1(x)

    def tail(self, x: Tensor) -> Tensor:
        return self.conv2(x)
