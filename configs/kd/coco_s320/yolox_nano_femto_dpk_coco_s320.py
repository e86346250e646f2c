# DPK with small modules, our choice.
_base_ = '../../_base_/pairs/yolox_nano_femto.py'
model = dict(
    links=dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            levels=[0, 1, 2],  # strides 8, 16, 32
            stages=[
                dict(
                    type='kd_mm.DPK',
                    patch=[4, 2, 1],
                    encoder=(64, 2, 4),
                    decoder=(64, 1, 4))],
            criterion=dict(type='kd_mm.MSELoss', weight=5.0))))
