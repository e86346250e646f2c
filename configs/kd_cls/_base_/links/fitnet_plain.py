# FitNet's loss on the last map without an adapter, for equal widths: our choice.
links = dict(
    map=dict(
        student='backbone',
        teacher='backbone',
        criterion=dict(type='kd_mm.MSELoss', weight=2.0)))
