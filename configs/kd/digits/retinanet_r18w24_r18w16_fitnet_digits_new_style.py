from mmengine.config import read_base

from kd_mm.criteria import MSELoss
from kd_mm.distill import Distill
from kd_mm.stages import ConvAdapter

with read_base():
    from .retinanet_r18w16_digits_new_style import *

model = dict(
    type=Distill,
    student=model,
    teacher=dict(  # in either style
        config='kd_mm::kd/digits/retinanet_r18w24_digits.py',
        checkpoint='configs/kd/digits/retinanet_r18w24_digits.pth'),
    links=dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            stages=[dict(type=ConvAdapter)],
            criterion=dict(type=MSELoss, weight=2.0))))
