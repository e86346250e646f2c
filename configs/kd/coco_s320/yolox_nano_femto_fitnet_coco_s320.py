_base_ = '../../_base_/pairs/yolox_nano_femto.py'
model = dict(
    links=dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            levels=[0, 1, 2],  # strides 8, 16, 32
            stages=[
                dict(type='kd_mm.ConvAdapter')],
            criterion=dict(type='kd_mm.MSELoss', weight=5.0))))
