"""What benchmarks/faulty.py injects: parts with a mistake in each, ruined weights."""

import torch
from mmcv.transforms import BaseTransform
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, TRANSFORMS
from mmengine.registry import MODELS as MMENGINE
from mmpretrain.models import ImageClassifier

from kd_mm.criteria.base import Criterion
from kd_mm.registry import MODELS
from kd_mm.stages import Stage


# --- parts of one's own, with a mistake in each ---------------------------------------
@TRANSFORMS.register_module()
class FaultyLabels(BaseTransform):
    """Classes with other numbers."""

    def __init__(self, classes: int = 10) -> None:
        self.classes = classes

    def transform(self, results: dict) -> dict:
        results['gt_label'] = (results['gt_label'] + 1) % self.classes
        return results


@TRANSFORMS.register_module()
class FaultyImages(BaseTransform):
    """Images in another form: colours swapped, or divided by 255."""

    def __init__(self, swap: bool = False, divide: float = 1.0) -> None:
        self.swap, self.divide = swap, divide

    def transform(self, results: dict) -> dict:
        image = results['img'][..., ::-1] if self.swap else results['img']
        if self.divide != 1:
            image = image.astype('float32') / self.divide
        results['img'] = image.copy()
        return results


@HOOKS.register_module()
class FaultyMode(Hook):
    """Puts everything into training mode, the teacher too."""

    priority = 'LOW'

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        runner.model.distiller.teacher.model.train()


@MODELS.register_module()
class FaultyDetach(Stage):
    """An adapter that learns in the student's place."""

    def setup(self, pair) -> None:
        width = pair.student[0].shape[1]
        self.conv = torch.nn.Conv2d(width, width, 1)

    def forward(self, pair):
        pair.student = [self.conv(feature.detach()) for feature in pair.student]
        return pair


@MODELS.register_module()
class FaultySum(Criterion):
    """A sum where a mean was meant."""

    def loss(self, student, teacher, *, weight=None):
        return (student - teacher).square().sum()


@MODELS.register_module()
class FaultyZero(Criterion):
    """Compares the student with itself."""

    def loss(self, student, teacher, *, weight=None):
        return (student - student.detach()).square().mean()


@MMENGINE.register_module()
class FaultyMixup(ImageClassifier):
    """Mixes images inside the network, where the teacher does not see it."""

    def loss(self, inputs, data_samples):
        return super().loss(0.5 * inputs + 0.5 * inputs.flip(0), data_samples)

    def extract_feat(self, inputs, stage='neck'):
        if self.training:
            inputs = 0.5 * inputs + 0.5 * inputs.flip(0)
        return super().extract_feat(inputs, stage)


# --- weights ----------------------------------------------------------------------
def zero(state: dict) -> None:
    for value in state.values():
        value.zero_()


def random(state: dict) -> None:
    for name, value in state.items():
        if value.ndim > 1:
            torch.nn.init.kaiming_normal_(value)
        elif name.endswith(('running_mean', 'bias')):
            value.zero_()
        elif name.endswith(('running_var', 'weight')):
            value.fill_(1)


def random_head(state: dict) -> None:
    torch.nn.init.normal_(state['head.fc.weight'])


def permuted(state: dict) -> None:
    order = torch.tensor([3, 7, 0, 9, 1, 5, 8, 2, 6, 4])
    for part in ('weight', 'bias'):
        state[f'head.fc.{part}'] = state[f'head.fc.{part}'][order]


def pruned(state: dict) -> None:
    """Three quarters of the last block's channels, as pruning leaves them."""
    for name, value in state.items():
        last = name.startswith('backbone.layer3') and value.ndim == 1
        if last and name.endswith(('weight', 'bias')):  # of the normalisations
            value[: 3 * len(value) // 4] = 0


def tenfold(state: dict) -> None:
    """Features that no half-precision number holds."""
    for part in ('weight', 'bias'):
        name = max(n for n in state if 'layer3' in n and n.endswith(f'bn2.{part}'))
        state[name] *= 1e6
