# FitNet on the five levels of an FPN: mean squared error after a 1x1 adapter.
fitnet_fpn = dict(
    fpn=dict(
        student='neck',
        teacher='neck',
        levels=[0, 1, 2, 3, 4],
        stages=[dict(type='kd_mm.ConvAdapter')],
        criterion=dict(type='kd_mm.MSELoss', weight=1.0)))
