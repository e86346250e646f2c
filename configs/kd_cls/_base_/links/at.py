# Attention transfer on the last map.
links = dict(
    map=dict(
        student='backbone',
        teacher='backbone',
        stages=[dict(type='kd_mm.Resize', side='teacher', mode='area')],
        criterion=dict(type='kd_mm.ATLoss', weight=1000.0)))
