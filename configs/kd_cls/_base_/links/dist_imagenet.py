# DIST on the logits, ImageNet's temperature.
links = dict(
    logits=dict(
        student='head.fc',
        teacher='head.fc',
        criterion=dict(type='kd_mm.DISTLoss', tau=1.0)))
