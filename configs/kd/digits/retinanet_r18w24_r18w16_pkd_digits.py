_base_ = '../../_base_/pairs/retinanet_digits.py'
model = dict(
    links=dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            criterion=dict(type='kd_mm.PKDLoss', weight=2.0))))
