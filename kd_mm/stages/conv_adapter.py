"""A small convolutional adapter on the student's side (FitNet's regressor)."""

from collections.abc import Sequence
from typing import Annotated

from mmcv.cnn import ConvModule
from torch import Tensor, nn

from ..errors import ConfigError
from ..options import Count, Rule, checked
from ..pair import MAP, FeaturePair, as_before, as_map, channels
from ..registry import MODELS
from .base import Stage

Odd = Annotated[Count, Rule('and odd', lambda n: n % 2 == 1)]


class ChannelLayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` over the channels of each position, which are axis 1 here."""

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> the same."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


@MODELS.register_module()
class ConvAdapter(Stage):
    """Map the student's channels to the teacher's width by ``layers`` convolutions.

    Source: FitNets, arXiv 1412.6550, section 2.2 (the convolutional regressor). The
    widths are taken from the networks. The last layer has no norm and no activation
    unless ``act_last`` asks for them. On tokens and vectors a
    convolution of size 1 is a linear layer on the channels of each.

    Args:
        layers (int): Number of convolutions. Defaults to 1.
        kernel_size (int | Sequence[int]): Odd kernel size, or one for each layer; more
            than 1 needs maps. Defaults to 1.
        norm_cfg (dict, optional): Norm after every convolution but the last:
            ``dict(type='BN')`` over images and positions, ``dict(type='LN')`` over the
            channels of each position. Defaults to None.
        act_last (bool): Whether norm and ReLU follow the last layer too.
            Defaults to False.
        share (bool): Whether all levels use the same adapter. Defaults to False.

    Shapes:
        student ``(N, Cs, H, W)``, ``(N, L, Cs)`` or ``(N, Cs)`` -> the same with Ct
        channels.

    Raises:
        ConfigError: For numbers out of range, ``share`` over levels of different
            widths, or a larger kernel on tokens or vectors, which have no neighbours.
    """

    mixes_channels = True

    @checked
    def __init__(
        self,
        *,
        layers: Count = 1,
        kernel_size: Odd | Sequence[Odd] = 1,
        norm_cfg: dict | None = None,
        act_last: bool = False,
        share: bool = False,
    ) -> None:
        super().__init__()
        sizes = [kernel_size] * layers if isinstance(kernel_size, int) else kernel_size
        if len(sizes) != layers:
            raise ConfigError(
                f'ConvAdapter.kernel_size has {len(sizes)} entries for {layers} layers'
            )
        if layers == 1 and norm_cfg is not None and not act_last:
            raise ConfigError(
                'ConvAdapter.norm_cfg has no effect: the last of its layers, here the '
                'only one, has a norm with act_last=True'
            )
        self.kernel_sizes = list(sizes)
        if max(sizes) > 1:  # tokens and vectors have no neighbours
            self.layouts = (MAP,)
            self.instead = (
                f'kernel_size={kernel_size} needs neighbours: take 1, or put '
                'dict(type="kd_mm.TokensToMap") before it where they are tokens'
            )
        self.norm_cfg, self.act_last, self.share = norm_cfg, act_last, share
        if norm_cfg is not None and norm_cfg.get('type') in ('LN', nn.LayerNorm):
            self.norm_cfg = dict(norm_cfg, type=ChannelLayerNorm)
        self.adapters = nn.ModuleList()

    def setup(self, pair: FeaturePair) -> None:
        super().setup(pair)
        widths = [
            (channels(s), channels(t))
            for s, t in zip(pair.student, pair.teacher, strict=True)
        ]
        if self.share and len(set(widths)) > 1:
            raise ConfigError(f'ConvAdapter(share=True): widths differ: {widths}')
        self.adapters.extend(
            self._build(*width) for width in (widths[:1] if self.share else widths)
        )

    def _build(self, width_in: int, width_out: int) -> nn.Sequential:
        last = len(self.kernel_sizes) - 1
        return nn.Sequential(
            *(
                ConvModule(
                    width_in if i == 0 else width_out,
                    width_out,
                    size,
                    padding=size // 2,
                    norm_cfg=self.norm_cfg if i < last or self.act_last else None,
                    act_cfg=dict(type='ReLU') if i < last or self.act_last else None,
                )
                for i, size in enumerate(self.kernel_sizes)
            )
        )

    def forward(self, pair: FeaturePair) -> FeaturePair:
        adapters = list(self.adapters) * (len(pair.student) if self.share else 1)
        pair.student = [
            self._adapt(adapter, feature)
            for adapter, feature in zip(adapters, pair.student, strict=True)
        ]
        return pair

    @staticmethod
    def _adapt(adapter: nn.Module, feature: Tensor) -> Tensor:
        return as_before(adapter(as_map(feature)), feature)
