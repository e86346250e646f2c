"""OFD: margin ReLU on the teacher, a linear adapter on the student."""

from functools import partial

import torch
from mmcv.cnn import ConvModule
from mmengine.dist import all_reduce
from mmengine.runner import Runner
from torch import Tensor, nn

from ..options import Count, checked
from ..pair import MAP, FeaturePair
from ..registry import MODELS
from .base import Stage, recall_after_load


@MODELS.register_module()
class OFD(Stage):
    """Prepare pre-activation features for OFDLoss.

    Source: A Comprehensive Overhaul of Feature Distillation, arXiv 1904.01866, sections
    3.1 and 3.2. Tap features in front of their ReLU (``path.of.relu@input``). The
    teacher's become ``max(t, m)``, m the expected negative response of each channel;
    the student's go through a 1x1 convolution and BN to the teacher's width.

    m is the mean over all negative responses so far, exchanged between ranks (the paper
    allows that beside an estimate from the BN layer in front, which not every network
    has). It is measured during the first ``steps`` training steps, kept in the
    checkpoint, and constant afterwards.

    Args:
        steps (int): Training steps during which margins are measured.
            Defaults to 200.

    Shapes:
        student ``(N, Cs, H, W)``, teacher ``(N, Ct, H, W)`` -> both
        ``(N, Ct, H, W)``.

    Raises:
        ConfigError: On anything but maps of equal size, or without steps.
    """

    mixes_channels = True
    layouts, same = (MAP,), 'size'

    @checked
    def __init__(self, *, steps: Count = 200) -> None:
        super().__init__()
        self.steps = steps
        self.adapters = nn.ModuleList()
        self.register_buffer('seen', torch.tensor(0))
        self._seen = 0  # the same on the host: read in every step
        self.register_load_state_dict_post_hook(recall_after_load)

    def setup(self, pair: FeaturePair) -> None:
        super().setup(pair)
        for level, (s, t) in enumerate(zip(pair.student, pair.teacher, strict=True)):
            width = t.shape[1]
            norm = dict(norm_cfg=dict(type='BN'), act_cfg=None)
            self.adapters.append(ConvModule(s.shape[1], width, 1, **norm))
            # sum and number of the negative responses of every channel
            self.register_buffer(f'negative_{level}', torch.zeros(2, width))

    def before_train(self, runner: Runner) -> None:
        """A run that starts anew may have another teacher, and measures it."""
        if not runner._resume:
            self._seen = 0
            self.seen.zero_()
            for level in range(len(self.adapters)):
                getattr(self, f'negative_{level}').zero_()

    def recall(self) -> None:
        self._seen = int(self.seen)

    def margin(self, level: int) -> Tensor:
        """m of every channel, ``(C, 1, 1)``; 0 where nothing was negative."""
        total, count = getattr(self, f'negative_{level}')
        return (total / count.clamp(min=1))[:, None, None]

    def forward(self, pair: FeaturePair) -> FeaturePair:
        if self.training and self._seen < self.steps:
            for level, teacher in enumerate(pair.teacher):
                self._measure(level, teacher.float())
            self._seen += 1
            self.seen += 1
        pair.teacher = [
            torch.maximum(t, self.margin(i).to(t.dtype))
            for i, t in enumerate(pair.teacher)
        ]
        pair.student = [
            adapt(s) for adapt, s in zip(self.adapters, pair.student, strict=True)
        ]
        return pair

    @torch.no_grad()
    def _measure(self, level: int, teacher: Tensor) -> None:
        add = partial(torch.sum, dim=(0, 2, 3))
        found = torch.stack([add(teacher.clamp(max=0)), add((teacher < 0).float())])
        all_reduce(found, op='sum')
        # an overflow would stay
        found = torch.where(found.isfinite().all(), found, 0.0)
        getattr(self, f'negative_{level}').add_(found)
