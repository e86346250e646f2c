# The digits' teacher and student: its weights are a part of the package.
_base_ = '../../kd/digits/retinanet_r18w16_digits.py'
model = dict(
    _delete_=True,
    type='kd_mm.Distill',
    student={{_base_.model}},
    teacher=dict(
        config='kd_mm::kd/digits/retinanet_r18w24_digits.py',
        checkpoint='configs/kd/digits/retinanet_r18w24_digits.pth'))
