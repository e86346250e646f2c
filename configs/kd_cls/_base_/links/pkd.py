# PKD on the last map, for equal widths.
links = dict(
    map=dict(
        student='backbone',
        teacher='backbone',
        criterion=dict(type='kd_mm.PKDLoss', weight=6.0)))
