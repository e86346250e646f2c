# MGD on the last map: whole channels are masked, as on ImageNet; the authors' weight
# translated to a mean per element.
links = dict(
    map=dict(
        student='backbone',
        teacher='backbone',
        stages=[dict(type='kd_mm.MGD', ratio=0.15, mask='channel')],
        criterion=dict(type='kd_mm.MSELoss', weight=2.0)))
