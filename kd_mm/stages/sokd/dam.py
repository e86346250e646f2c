"""DAM: confine the transfer to areas that student and teacher both care about."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import Tensor, nn

from ...criteria.dkd import targets
from ...diagnostics import HostCopy
from ...errors import ConfigError, nearest
from ...link import Link
from ...options import Count, NonNegative, checked
from ...pair import MAP, FeaturePair
from ...registry import MODELS
from ..base import Borrowed, Stage
from .areas import (
    Areas,
    activation_loss,
    area_mask,
    find_areas,
    ground_truth_loss,
    spread,
)

CONSTANT = 1e-3  # a heatmap in [0, 1] that varies less than this says nothing
PATIENCE = 500  # steps between looks at it


class AreaHeads(nn.Module):
    """Heatmap, size and offset of areas, as of arXiv 1904.07850 (CenterNet).

    Args:
        width (int): Channels of the feature.
        hidden (int): Channels of the 3x3 convolution of every head.
        heatmaps (int): Channels of the heatmap.
        relu_heads (bool): Whether every head ends in a ReLU; otherwise the heatmap's
            does not, and the others in a softplus, which cannot die.
    """

    def __init__(
        self, *, width: int, hidden: int, heatmaps: int, relu_heads: bool
    ) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(width, 3 * hidden, 3, padding=1)  # of all three at once
        self.heads = nn.ModuleList(nn.Conv2d(hidden, c, 1) for c in (heatmaps, 2, 2))
        self.relu_heads = relu_heads

    def forward(self, feature: Tensor) -> Areas:
        """Predict on ``(N, C, H, W)``; everything comes in cells of this map."""
        parts = self.trunk(feature).relu_().chunk(3, dim=1)
        heat, size, offset = (
            head(part) for head, part in zip(self.heads, parts, strict=True)
        )
        heat, size, offset = heat.float(), size.float(), offset.float()
        if self.relu_heads:
            return Areas(heat.relu_().sigmoid(), size.relu_(), offset.relu_())
        return Areas(heat.sigmoid(), F.softplus(size), F.softplus(offset))


@MODELS.register_module()
class DAM(Stage):
    """Distinctive area detection: where to compare, as a weight map. SoKD.

    Source: SoKD, arXiv 2409.18785. Three small heads, shared by the student and the
    teacher, predict areas on both sides; they and the student learn from the
    difference of the two predictions (L_D, equation 4). The ``top_k`` peaks of each
    image and level become boxes, and the link's criterion is confined to them
    (equation 5). Heads of levels of one width share their weights (our choice).

    Nothing in L_D forbids heads that say the same everywhere. ``heat_spread`` in the
    log is how much the teacher's heatmap varies; a warning comes when it is 0.

    Args:
        top_k (int): Areas of an image and level. Defaults to 8.
        weight (float | Sequence[float]): Of L_D, the mean squared differences of the
            three predictions; or one each for heatmap, size and offset: the authors'
            mean over all channels of the three together is
            ``w * (heatmaps, 2, 2) / (heatmaps + 4)``. Defaults to 1.0.
        boxes_from (str): Whose areas count: 'student', 'teacher' or 'both'.
            Defaults to 'student'.
        overlap (str): 'sum' counts a position once for every area it is in, 'max'
            once. Defaults to 'sum'.
        normalise (str): 'all' averages over all positions, so little area is little
            loss; 'area' over the areas of each image. Defaults to 'all'.
        supervision (str): What else trains the heads, on the teacher's side (our
            choice): 'gt', the boxes of the batch, as in CenterNet, where they are in
            the image, also where DAFA has moved the feature; 'cam', for
            classifiers, the class activation map of the image's label (arXiv
            1512.04150) on the map that the teacher's classifier averages. Both keep
            the heads from collapsing. Defaults to 'none'.
        classifier (str): Path of the teacher's linear layer, for 'cam'.
            Defaults to 'head.fc'.
        heatmaps (int): Channels of the heatmap. With 'gt' a class goes to channel
            ``label % heatmaps``; 1 is objectness. Defaults to 2.
        hidden (int, optional): Channels inside the heads; None: as many as the feature
            has, as in the authors' code. Defaults to 64.
        relu_heads (bool): End every head in a ReLU, as the authors' code does: heat is
            never below 0.5, and a size can be stuck at 0. Otherwise size and offset end
            in a softplus. Defaults to False.

    Shapes:
        both sides ``(N, C, H, W)``, unchanged; ``weight`` gets ``(N, 1, H, W)``.

    Raises:
        ConfigError: For unknown names or numbers out of range, on anything but maps of
            equal shape on both sides, or if another stage has set the weights.
    """

    layouts = (MAP,)
    instead = (
        'of SoKD only DAFA acts on vectors and tokens; dict(type="kd_mm.TokensToMap") '
        'before it makes maps of tokens'
    )

    @checked
    def __init__(
        self,
        *,
        top_k: Count = 8,
        weight: NonNegative | tuple[NonNegative, NonNegative, NonNegative] = 1.0,
        boxes_from: Literal['student', 'teacher', 'both'] = 'student',
        overlap: Literal['sum', 'max'] = 'sum',
        normalise: Literal['all', 'area'] = 'all',
        supervision: Literal['none', 'gt', 'cam'] = 'none',
        classifier: str = 'head.fc',
        heatmaps: Count = 2,
        hidden: Count | None = 64,
        relu_heads: bool = False,
    ) -> None:
        super().__init__()
        self.weights: tuple[float, ...] = (
            (weight,) * 3 if isinstance(weight, int | float) else tuple(weight)
        )
        self.top_k, self.boxes_from = top_k, boxes_from
        self.overlap, self.normalise = overlap, normalise
        self.supervision, self.heatmaps = supervision, heatmaps
        self.reads_labels = supervision != 'none'
        self.classifier = classifier
        self.hidden, self.relu_heads = hidden, relu_heads
        self.heads = nn.ModuleDict()
        self.link = ''
        self._layer: Borrowed[nn.Linear] | None = None
        self._spread: HostCopy | None = None
        self._steps = 0

    def connect(self, teacher: nn.Module) -> None:
        if self.supervision != 'cam':
            return
        layers = {n: m for n, m in teacher.named_modules() if isinstance(m, nn.Linear)}
        if self.classifier not in layers:
            raise ConfigError(
                f'DAM.classifier: the teacher has no linear layer {self.classifier!r}; '
                f'{nearest(self.classifier, layers)}'
            )
        self._layer = Borrowed(layers[self.classifier])

    def borrowed(self) -> list[nn.Module]:
        return [] if self._layer is None else [self._layer.it]

    @property
    def class_weight(self) -> Tensor:
        """The teacher's, ``(K, C)``, as it is now: that of an average moves."""
        if self._layer is None:
            raise ConfigError("DAM(supervision='cam') has not seen the teacher")
        return self._layer.it.weight.detach().float()

    def setup(self, pair: FeaturePair) -> None:
        super().setup(pair)
        for student, teacher in zip(pair.student, pair.teacher, strict=True):
            if student.shape != teacher.shape:
                raise ConfigError(
                    'DAM compares maps of equal shape: put dict(type='
                    '"kd_mm.ConvAdapter") or dict(type="kd_mm.Resize") before it'
                )
            width = student.shape[1]
            if self.supervision == 'cam' and width != self.class_weight.shape[1]:
                raise ConfigError(
                    f"DAM(supervision='cam') needs the map that the teacher's "
                    f'{self.classifier} averages, of {self.class_weight.shape[1]} '
                    f'channels, not one of {width}: tap the last stage'
                )
            if str(width) not in self.heads:
                self.heads[str(width)] = AreaHeads(
                    width=width,
                    hidden=width if self.hidden is None else self.hidden,
                    heatmaps=self.heatmaps,
                    relu_heads=self.relu_heads,
                )
        self.link = pair.link

    def check(self, link: Link) -> None:
        """Class activation maps need the teacher's channels where they were."""
        before, _ = link.around(self)
        movers = [type(stage).__name__ for stage in before if stage.moves_channels]
        if self.supervision == 'cam' and movers:
            raise ConfigError(
                f"DAM(supervision='cam') cannot read the teacher's channels behind "
                f'{movers[0]}, which moves them; remove one of the two'
            )

    def predict(self, features: Sequence[Tensor]) -> list[Areas]:
        """What the heads see on every level of one side."""
        return [self.heads[str(f.shape[1])](f) for f in features]

    def boxes(self, student: Areas, teacher: Areas) -> Tensor:
        """The areas that count on one level, ``(N, K, 4)``, in cells."""
        chosen = dict(student=[student], teacher=[teacher], both=[student, teacher])
        return torch.cat(
            [find_areas(side, self.top_k) for side in chosen[self.boxes_from]], dim=1
        )

    def forward(self, pair: FeaturePair) -> FeaturePair:
        if any(weight is not None for weight in pair.weight):
            raise ConfigError('an earlier stage has weighted the positions already')
        student, teacher = self.predict(pair.student), self.predict(pair.teacher)
        pair.losses['areas'] = torch.stack(
            [
                s.difference(t, self.weights)
                for s, t in zip(student, teacher, strict=True)
            ]
        ).mean()
        if self.supervision == 'gt':
            pair.losses['area_boxes'] = (
                self.weights[0]
                * torch.stack(
                    [
                        ground_truth_loss(areas, pair.samples, pair.image_size)
                        for areas in teacher
                    ]
                ).mean()
            )
        if self.supervision == 'cam':
            labels = targets(pair.samples, self.class_weight.device)
            pair.losses['area_classes'] = (
                self.weights[0]
                * torch.stack(
                    [
                        activation_loss(areas, feature, self.class_weight[labels])
                        for areas, feature in zip(teacher, pair.teacher, strict=True)
                    ]
                ).mean()
            )
        with torch.no_grad():
            weights = [
                area_mask(
                    self.boxes(s, t),
                    s.heat.shape[2:],
                    overlap=self.overlap,
                    normalise=self.normalise,
                )
                for s, t in zip(student, teacher, strict=True)
            ]
            covered = [(weight > 0).float().mean() for weight in weights]
            pair.weight = list(weights)
            pair.logs['area'] = torch.stack(covered).mean()
            varies = torch.stack([spread(areas.heat) for areas in teacher]).max()
            pair.logs['heat_spread'] = varies
        if self.training and self._steps % PATIENCE == PATIENCE - 1:
            self._spread = HostCopy(varies)
        self._steps += self.training
        return pair

    def suspect(self, logged: Mapping[str, np.ndarray]) -> str:
        if 'area' not in logged:
            return ''
        mean = float(logged['area'].mean())
        if 0.002 < mean < 0.998:
            return ''
        extent = 'nothing' if mean < 0.5 else 'the whole image'
        return (
            f'the areas of DAM have collapsed, they are {extent}; look at them with '
            'kd_mm.DrawSoKDHook'
        )

    def after_train_iter(self, runner: Runner) -> None:
        """Warn of heads that say the same everywhere."""
        if self._spread is None:
            return
        varies, self._spread = float(self._spread.read()), None
        if varies < CONSTANT:
            MMLogger.get_current_instance().warning(
                f'links.{self.link}: the heads of DAM have collapsed: their heatmaps '
                f'vary by {varies:.1e} only, so the areas are arbitrary; try '
                "supervision='gt' ('cam' for classifiers), or a smaller weight of DAM"
            )
