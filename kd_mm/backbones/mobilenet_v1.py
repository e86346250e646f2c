"""MobileNetV1 for ImageNet, which MMPretrain does not have."""

from collections.abc import Sequence

from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..errors import ConfigError
from ..options import Natural, Positive, checked
from ..registry import MODELS

# width and stride of the depthwise separable blocks, a row for each resolution
_STAGES = (
    ((64, 1),),
    ((128, 2), (128, 1)),
    ((256, 2), (256, 1)),
    ((512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1)),
    ((1024, 2), (1024, 1)),
)


@MODELS.register_module()
class MobileNetV1(BaseModule):
    """MobileNetV1, arXiv 1704.04861, table 1, without its pooling and classifier.

    Args:
        widen_factor (float): Multiplies all widths. Defaults to 1.0.
        out_indices (Sequence[int]): Stages that are returned, 0 to 4 at strides 2, 4,
            8, 16 and 32 and widths 64, 128, 256, 512 and 1024. Defaults to the last.
        init_cfg (dict | list, optional): Initialisation of MMEngine. Defaults to
            Kaiming normal convolutions.

    Shapes:
        ``(N, 3, H, W)`` -> tuple of ``(N, C, H / stride, W / stride)``.

    Raises:
        ConfigError: If ``out_indices`` are out of range or a width vanishes.
    """

    @checked
    def __init__(
        self,
        *,
        widen_factor: Positive = 1.0,
        out_indices: Sequence[Natural] = (4,),
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(
            init_cfg or [dict(type='Kaiming', layer='Conv2d', mode='fan_out')]
        )
        if not out_indices or not set(out_indices) <= set(range(len(_STAGES))):
            raise ConfigError(
                f'MobileNetV1: out_indices are 0 to 4, got {list(out_indices)}'
            )
        if widen_factor * 32 < 1:
            raise ConfigError(
                f'MobileNetV1: widen_factor {widen_factor} leaves nothing'
            )
        self.out_indices = tuple(out_indices)
        norm = dict(norm_cfg=dict(type='BN'))
        width = int(32 * widen_factor)
        self.stem = ConvModule(3, width, 3, stride=2, padding=1, **norm)
        self.stages = nn.ModuleList()
        for rows in _STAGES:
            blocks = []
            for out, stride in rows:
                out = int(out * widen_factor)
                blocks.append(
                    DepthwiseSeparableConvModule(
                        width, out, 3, stride=stride, padding=1, **norm
                    )
                )
                width = out
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        outs = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                outs.append(x)
        return tuple(outs)
