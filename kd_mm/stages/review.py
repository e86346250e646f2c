"""ReviewKD: deeper levels of the student help its shallower ones."""

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from ..options import Count, checked
from ..pair import MAP, VECTOR, FeaturePair, as_before, as_map
from ..registry import MODELS
from .base import Stage


class Fusion(nn.Module):
    """One attention-based fusion (ABF).

    Args:
        own (int): Channels of the student's level.
        mid (int): Channels that are handed on to the next shallower level.
        out (int): Channels of the teacher's level.
        first (bool): Whether this is the deepest level, which has nothing to fuse with.
    """

    def __init__(self, *, own: int, mid: int, out: int, first: bool) -> None:
        super().__init__()
        plain = dict(norm_cfg=dict(type='BN'), act_cfg=None)
        self.reduce = ConvModule(own, mid, 1, **plain)
        self.expand = ConvModule(mid, out, 3, padding=1, **plain)
        self.attend = None if first else nn.Conv2d(2 * mid, 2, 1)

    def forward(
        self, x: Tensor, deeper: Tensor | None, size: torch.Size
    ) -> tuple[Tensor, Tensor]:
        """Fuse ``(N, own, H, W)`` with ``(N, mid, h, w)`` at the teacher's ``size``.

        Returns:
            tuple[Tensor, Tensor]: ``(N, out, *size)`` to compare, and
            ``(N, mid, H, W)`` to hand on.
        """
        x = self.reduce(x)
        if self.attend is not None and deeper is not None:
            # `attend` of both, without a copy of both; what it makes of the deeper one
            # does not depend on whether that is enlarged before or after
            of_x, of_deeper = self.attend.weight.chunk(2, dim=1)
            share = F.conv2d(x, of_x, self.attend.bias)
            share = share + _enlarged(F.conv2d(deeper, of_deeper), x)
            share = share.sigmoid()
            x = x * share[:, :1] + _enlarged(deeper, x) * share[:, 1:]
        resized = x
        if x.shape[2:] != size:
            resized = F.interpolate(x, size, mode='nearest')
        return self.expand(resized), x


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode='nearest')


@MODELS.register_module()
class ReviewKD(Stage):
    """Fuse the student's levels from the deepest on (ABF), then compare with HCLLoss.

    Source: ReviewKD, arXiv 2104.09044, section 3.2. Every level of the student reviews
    the deeper ones: reduced to ``mid`` channels, weighted by a learned attention,
    added, and expanded to the width and size of the teacher's level. Levels go from
    shallow to deep, as a backbone or an FPN gives them; a pooled vector may come last,
    as on CIFAR.

    Args:
        mid (int, optional): Channels inside. Defaults to None, the widest level of the
            student up to 512; the authors take 64 to 512 on CIFAR, 256 on detectors.

    Shapes:
        student ``(N, Cs, H, W)``, teacher ``(N, Ct, H', W')`` -> student
        ``(N, Ct, H', W')``; vectors ``(N, C)`` the same with H = W = 1.

    Raises:
        ConfigError: On anything but maps and vectors.
    """

    mixes_channels = True
    layouts, same = (MAP, VECTOR), 'layout'

    @checked
    def __init__(self, *, mid: Count | None = None) -> None:
        super().__init__()
        self.mid = mid
        self.fusions = nn.ModuleList()

    def setup(self, pair: FeaturePair) -> None:
        super().setup(pair)
        levels = list(zip(pair.student, pair.teacher, strict=True))
        mid = self.mid or min(512, max(s.shape[1] for s, _ in levels))
        deepest = len(levels) - 1
        self.fusions.extend(
            Fusion(own=s.shape[1], mid=mid, out=t.shape[1], first=i == deepest)
            for i, (s, t) in enumerate(levels)
        )

    def forward(self, pair: FeaturePair) -> FeaturePair:
        fused, deeper = [], None
        for i in reversed(range(len(pair.student))):
            own, like = pair.student[i], pair.teacher[i]
            out, deeper = self.fusions[i](as_map(own), deeper, as_map(like).shape[2:])
            fused.append(as_before(out, own))
        pair.student = fused[::-1]
        return pair
