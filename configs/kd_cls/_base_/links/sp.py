# SP on the last map.
links = dict(
    map=dict(
        student='backbone',
        teacher='backbone',
        criterion=dict(type='kd_mm.SPLoss', weight=3000.0)))
