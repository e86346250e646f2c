"""VGG with batch norm for 32 x 32 images."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import nn

from ..options import Natural, checked
from ..registry import MODELS
from .base import StagedBackbone

WIDTHS = (64, 128, 256, 512, 512)
CONVS = {8: 1, 13: 2}  # convolutions in each block
POOLED = 3  # blocks that a pooling layer follows; the last two have the same size


@MODELS.register_module()
class VGGCIFAR(StagedBackbone):
    """VGG-8 and VGG-13 with BN as the distillation literature uses them on CIFAR.

    Five blocks after arXiv 1409.1556, without its fully connected layers; the authors
    of CRD (arXiv 1910.10699) leave out the last two poolings. Tap ``backbone.block4``
    for the output of the last block, ``backbone.block4.relu@input`` for what is in
    front of its last ReLU.

    Args:
        depth (int): 8 or 13. Defaults to 13.
        out_indices (Sequence[int], optional): Blocks that are returned, 0 to 4.
            Defaults to None, the last.
        init_cfg (dict | list, optional): See :class:`StagedBackbone`.

    Shapes:
        ``(N, 3, H, W)`` -> tuple of ``(N, C, H / s, W / s)``, s = 1, 2, 4, 8, 8 and
        C = 64, 128, 256, 512, 512.

    Raises:
        ConfigError: For another depth.
    """

    @checked
    def __init__(
        self,
        *,
        depth: Literal[8, 13] = 13,
        out_indices: Sequence[Natural] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        width_in = 3
        for index, width in enumerate(WIDTHS):
            layers: list[nn.Module] = []
            for _ in range(CONVS[depth]):
                layers.append(nn.Conv2d(width_in, width, 3, padding=1))
                layers.extend([nn.BatchNorm2d(width), nn.ReLU(inplace=True)])
                width_in = width
            named = {str(i): layer for i, layer in enumerate(layers[:-1])}
            if 0 < index <= POOLED:
                named = dict(pool=nn.MaxPool2d(2)) | named
            named['relu'] = nn.ReLU()  # tapped at its input: not in place
            self.add_module(f'block{index}', nn.Sequential(OrderedDict(named)))
        self.stages([f'block{i}' for i in range(len(WIDTHS))], out_indices)
