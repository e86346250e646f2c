# DKD on the logits, with the warm-up of the authors' code.
links = dict(
    logits=dict(
        student='head.fc',
        teacher='head.fc',
        schedule=dict(warmup=20),
        criterion=dict(type='kd_mm.DKDLoss', alpha=1.0, beta=8.0, tau=4.0)))
