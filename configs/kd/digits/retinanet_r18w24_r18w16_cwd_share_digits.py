# CWD, its part of the gradient at the student's neck held at four fifths at first and
# at half of that in the end: the weight sets itself.
_base_ = '../../_base_/pairs/retinanet_digits.py'
model = dict(
    links=dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            criterion=dict(type='kd_mm.CWDLoss'),
            share=0.8)))
