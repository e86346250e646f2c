# DPK with small modules, our choice.
_base_ = '../../_base_/pairs/retinanet_digits.py'
model = dict(
    links=dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            stages=[
                dict(
                    type='kd_mm.DPK',
                    patch=[2, 1, 1],
                    encoder=(64, 2, 4),
                    decoder=(64, 1, 4))],
            criterion=dict(type='kd_mm.MSELoss', weight=2.0))))
optim_wrapper = dict(optimizer=dict(fused=True))  # half of its modules' time on a CPU
