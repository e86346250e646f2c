# DIST on the logits, CIFAR's temperature.
links = dict(
    logits=dict(
        student='head.fc',
        teacher='head.fc',
        criterion=dict(type='kd_mm.DISTLoss', tau=4.0)))
