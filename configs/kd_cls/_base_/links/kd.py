# KD on the logits. Beside a task loss of 1; the public recipe has 0.1 and 0.9.
links = dict(
    logits=dict(
        student='head.fc',
        teacher='head.fc',
        criterion=dict(type='kd_mm.KDLoss', tau=4.0, weight=1.0)))
