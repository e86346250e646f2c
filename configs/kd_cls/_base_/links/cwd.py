# CWD on the last map, for equal widths. The paper's weight is an FPN's; on classifiers
# there is no published one.
links = dict(
    map=dict(
        student='backbone',
        teacher='backbone',
        criterion=dict(type='kd_mm.CWDLoss', tau=1.0, weight=10.0)))
