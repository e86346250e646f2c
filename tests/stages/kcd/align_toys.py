"""Links, models, pairs and logs that the tests of ChannelAlign share."""

import logging

import torch
import toys
from helpers import build, distill_cfg
from mmengine.logging import MMLogger

from kd_mm.pair import FeaturePair
from kd_mm.stages import ChannelAlign
from kd_mm.stages.kcd.moments import Covariance

STUDENT, TEACHER = toys.retinanet(), toys.retinanet(base=16)


def links(criterion='MSELoss', *, stages=(), weight=1.0, **align) -> dict:
    return dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            levels=[0, 1],
            stages=[dict(type='kd_mm.ChannelAlign', **align), *stages],
            criterion=dict(type=f'kd_mm.{criterion}', weight=weight),
        )
    )


def distilled(*args, student=STUDENT, teacher=TEACHER, **kwargs):
    return build(distill_cfg(student, teacher, links(*args, **kwargs)))


def align_of(model) -> ChannelAlign:
    return model.distiller.links.fpn.stages[0]


def pair_of(width_s: int, width_t: int, form: str = 'map', levels: int = 1):
    shape = dict(map=(40, -1, 3, 3), tokens=(40, 9, -1), vector=(40, -1))[form]
    torch.manual_seed(0)
    student, teacher = (
        [torch.randn([width if i == -1 else i for i in shape]) for _ in range(levels)]
        for width in (width_s, width_t)
    )
    for feature in student:
        feature.requires_grad_()
    return FeaturePair('fpn', student, teacher, [None] * 40, (30, 30))


def stage_on(pair: FeaturePair, **kwargs) -> ChannelAlign:
    """A stage set up on ``pair`` and fitted to made-up statistics of its widths."""
    stage = ChannelAlign(**kwargs)
    stage.setup(pair)
    widths = [(s.shape[1], t.shape[1]) for s, t in zip(pair.student, pair.teacher)]
    stage.fit(
        [Covariance.of(torch.randn(50, s), torch.randn(50, t)) for s, t in widths]
    )
    return stage


class Log(logging.Handler):
    """What was logged to MMEngine's current logger."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append((record.levelname, record.getMessage()))

    def __enter__(self):
        self.logger = MMLogger.get_current_instance()
        self.logger.addHandler(self)
        return self

    def __exit__(self, *error):
        self.logger.removeHandler(self)

    def warnings(self):
        return [text for level, text in self.lines if level == 'WARNING']
