_base_ = '../../_base_/pairs/retinanet_digits.py'
model = dict(
    links=dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            stages=[dict(type='kd_mm.ConvAdapter')],
            criterion=dict(type='kd_mm.MSELoss', weight=2.0))))
