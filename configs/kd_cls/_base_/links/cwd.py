# CWD on the last map, for equal widths.
links = dict(
    map=dict(
        student='backbone',
        teacher='backbone',
        criterion=dict(type='kd_mm.CWDLoss', tau=1.0, weight=10.0)))
