"""One teacher out of several."""

from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigError
from ..options import Count, checked
from ..pair import FeaturePair, channels_first
from ..registry import MODELS
from .base import Stage


@MODELS.register_module()
class MergeTeachers(Stage):
    """Average what several teachers give, or take who is more certain. Our choice.

    The first stage of a link that reads several teachers, each with as many levels as
    the student: ``teacher=['a:head.fc', 'b:head.fc']``. The mean is what averaging the
    teachers' soft targets became in practice (You et al., KDD 2017), on logits.

    Args:
        by (str): 'mean' of features or logits; or 'certain', at every position the
            logits of the teacher whose likeliest class is the likeliest.
            Defaults to 'mean'.
        sigmoid (bool): Whether each logit is a probability of its own, as in dense
            detection heads; softmax over channels otherwise. With 'certain' only.
            Defaults to False.
        classes (int, optional): How many logits belong together, where the channels
            are those of several anchors one after the other. With 'certain' only.
            Defaults to None, all channels.

    Shapes:
        per level and teacher ``(N, C, H, W)``, ``(N, L, C)`` or ``(N, C)`` -> the same.

    Raises:
        ConfigError: If the teachers give different shapes, or an option has no effect.
    """

    merges = True

    @checked
    def __init__(
        self,
        *,
        by: Literal['mean', 'certain'] = 'mean',
        sigmoid: bool = False,
        classes: Count | None = None,
    ) -> None:
        super().__init__()
        if by == 'mean' and (sigmoid or classes):
            name = 'sigmoid' if sigmoid else 'classes'
            raise ConfigError(
                f"MergeTeachers.{name} has no effect with by='mean': say by='certain', "
                'or leave it out'
            )
        self.by, self.sigmoid, self.classes = by, sigmoid, classes

    def forward(self, pair: FeaturePair) -> FeaturePair:
        levels = len(pair.student)
        merged = []
        for level in range(levels):
            several = pair.teacher[level::levels]
            shapes = {tuple(feature.shape) for feature in several}
            if len(shapes) > 1:
                raise ConfigError(
                    f'MergeTeachers: the teachers give {sorted(shapes)} on level '
                    f'{level}, which cannot be merged; give each a link of its own'
                )
            # (teachers, N, C, ...)
            stacked = torch.stack([channels_first(feature) for feature in several])
            merged.append(channels_first(self._merge(stacked)))
        pair.teacher = merged
        return pair

    def _merge(self, logits: Tensor) -> Tensor:
        if self.by == 'mean':
            return logits.mean(0)
        count = self.classes or logits.shape[2]
        if logits.shape[2] % count:
            raise ConfigError(
                f'MergeTeachers: {logits.shape[2]} logits are no multiple of classes='
                f'{count}'
            )
        split = logits.unflatten(2, (-1, count))  # (teachers, N, anchors, K, ...)
        scores = split if self.sigmoid else split.softmax(3)
        best = scores.amax(3, keepdim=True).argmax(0, keepdim=True)
        best = best.expand(1, *split.shape[1:])
        return split.gather(0, best)[0].flatten(1, 2)
