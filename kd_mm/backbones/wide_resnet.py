"""Wide ResNets for 32 x 32 images."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..errors import ConfigError
from ..options import Count, Natural, checked
from ..registry import MODELS
from .base import StagedBackbone, conv1x1, conv3x3


class PreActBlock(nn.Module):
    """BN and ReLU before each of two convolutions.

    Where the width changes, the shortcut starts behind the first ReLU too.

    Args:
        width_in (int): Channels of the input.
        width (int): Channels of the output.
        stride (int): Of the first convolution.
    """

    def __init__(self, width_in: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = conv3x3(width_in, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(width, width)
        self.shortcut = conv1x1(width_in, width, stride) if width_in != width else None

    def forward(self, x: Tensor) -> Tensor:
        act = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(act))))
        return out + (x if self.shortcut is None else self.shortcut(act))


@MODELS.register_module()
class WideResNetCIFAR(StagedBackbone):
    """Wide ResNet, arXiv 1605.07146, without dropout: WRN-depth-widen.

    Stages end before BN and ReLU: ``backbone.layer1`` and ``backbone.layer2`` are
    sums. The output of the backbone is behind them; ``backbone.relu@input`` is the last
    map in front of the last ReLU.

    Args:
        depth (int): 6 n + 4, e.g. 16, 40.
        widen (int): Multiplies the widths 16, 32, 64. Defaults to 1.
        out_indices (Sequence[int], optional): Stages that are returned, 0 to 2.
            Defaults to None, the last.
        init_cfg (dict | list, optional): See :class:`StagedBackbone`.

    Shapes:
        ``(N, 3, H, W)`` -> tuple of ``(N, C, H / s, W / s)``, s = 1, 2, 4.

    Raises:
        ConfigError: For another depth or a widening below 1.
    """

    @checked
    def __init__(
        self,
        *,
        depth: int,
        widen: Count = 1,
        out_indices: Sequence[Natural] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if depth < 10 or (depth - 4) % 6:
            raise ConfigError(f'WideResNetCIFAR needs depth = 6 n + 4, got {depth}')
        widths = (16, 16 * widen, 32 * widen, 64 * widen)
        self.conv1 = conv3x3(3, 16)
        for index, width in enumerate(widths[1:]):
            blocks = [
                PreActBlock(
                    width if block else widths[index],
                    width,
                    stride=2 if index and not block else 1,
                )
                for block in range((depth - 4) // 6)
            ]
            self.add_module(f'layer{index + 1}', nn.Sequential(*blocks))
        self.bn1 = nn.BatchNorm2d(widths[-1])
        self.relu = nn.ReLU()
        self.stages(('layer1', 'layer2', 'layer3'), out_indices)

    def stem(self, x: Tensor) -> Tensor:
        return self.conv1(x)

    def tail(self, x: Tensor) -> Tensor:
        return self.relu(self.bn1(x))
