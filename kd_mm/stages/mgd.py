"""MGD: rebuild the teacher's map from a masked student's."""

from typing import Literal

import torch
from mmcv.cnn import ConvModule
from mmengine.dist import get_rank
from mmengine.runner import Runner
from torch import Tensor, nn

from ..options import Natural, ProperFraction, checked
from ..pair import MAP, FeaturePair
from ..registry import MODELS
from .base import Stage, recall_after_load


@MODELS.register_module()
class MGD(Stage):
    """Masked generative distillation, arXiv 2205.01529, equations 2 and 3.

    Positions (or channels) of the student's map are set to 0 at random, and two 3x3
    convolutions rebuild the teacher's map from the rest; the criterion, MSELoss, then
    compares all of it. Where the widths differ a 1x1 convolution comes first.

    The authors sum squared differences and divide by the images, so their weights are
    translated by C H W of a level: 2e-5 on a RetinaNet's FPN becomes about 5 at P5 of
    an 800 x 1333 image (256 x 25 x 42), 7e-5 on the last map of a ResNet-18
    (512 x 7 x 7) becomes 1.8.

    Args:
        ratio (float): Part that is masked, in [0, 1). Defaults to 0.65, the paper's for
            one-stage detectors; 0.45 for two-stage ones, 0.15 for classifiers.
        mask (str): 'spatial' masks positions, as on detectors; 'channel' whole
            channels, as on classifiers. Defaults to 'spatial'.
        seed (int): Of the masks, which follow it and the step, so that a resumed run
            has those of an uninterrupted one. Defaults to 0.

    Shapes:
        student ``(N, Cs, H, W)``, teacher ``(N, Ct, H, W)`` -> student
        ``(N, Ct, H, W)``.

    Raises:
        ConfigError: For another mask, a ratio outside of [0, 1), or anything but maps
            of equal size.
    """

    mixes_channels = True
    layouts, same = (MAP,), 'size'

    @checked
    def __init__(
        self,
        *,
        ratio: ProperFraction = 0.65,
        mask: Literal['spatial', 'channel'] = 'spatial',
        seed: Natural = 0,
    ) -> None:
        super().__init__()
        self.ratio, self.mask, self.seed = ratio, mask, seed
        self.aligns, self.generators = nn.ModuleList(), nn.ModuleList()
        self.register_buffer('steps', torch.tensor(0))
        self._steps = 0  # the same on the host: read in every step
        self.register_load_state_dict_post_hook(recall_after_load)

    def before_train(self, runner: Runner) -> None:
        """A run that starts anew draws its masks anew."""
        if not runner._resume:
            self.steps.zero_()
            self.recall()

    def recall(self) -> None:
        self._steps = int(self.steps)

    def setup(self, pair: FeaturePair) -> None:
        super().setup(pair)
        for student, teacher in zip(pair.student, pair.teacher, strict=True):
            own, width = student.shape[1], teacher.shape[1]
            align = nn.Identity() if own == width else nn.Conv2d(own, width, 1)
            self.aligns.append(align)
            self.generators.append(
                nn.Sequential(
                    ConvModule(width, width, 3, padding=1),
                    ConvModule(width, width, 3, padding=1, act_cfg=None),
                )
            )

    def forward(self, pair: FeaturePair) -> FeaturePair:
        pair.student = [
            self._rebuilt(*level)
            for level in enumerate(zip(pair.student, pair.teacher, strict=True))
        ]
        if self.training:
            self._steps += 1
            self.steps.fill_(self._steps)
        return pair

    def _rebuilt(self, level: int, sides: tuple[Tensor, Tensor]) -> Tensor:
        student = self.aligns[level](sides[0])
        return self.generators[level](student * self._kept(student, level))

    def _kept(self, feature: Tensor, level: int) -> Tensor:
        """1 where the map stays, ``(N, 1, H, W)`` or ``(N, C, 1, 1)``."""
        n, width, *size = feature.shape
        shape = (n, 1, *size) if self.mask == 'spatial' else (n, width, 1, 1)
        generator = torch.Generator(feature.device)
        number = (self.seed * 1009 + get_rank()) * 1009 + level
        generator.manual_seed((number * 1_000_003 + self._steps) % 2**63)
        drawn = torch.rand(shape, generator=generator, device=feature.device)
        return (drawn >= self.ratio).to(feature.dtype)
