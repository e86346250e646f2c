"""Pairs and small stages that the tests of DPK share."""

import torch

from kd_mm.pair import FeaturePair
from kd_mm.stages import DPK

TINY = dict(encoder=(16, 1, 2), decoder=(16, 1, 2))


def make_pair(student=((2, 4, 8, 8),), teacher=((2, 6, 8, 8),)):
    return FeaturePair(
        link='x',
        student=[torch.randn(shape, requires_grad=True) for shape in student],
        teacher=[torch.randn(shape) for shape in teacher],
        samples=[],
        image_size=(64, 64),
    )


def ready(pair, **kwargs) -> DPK:
    stage = DPK(**{**TINY, **kwargs})
    stage.setup(pair)
    return stage
