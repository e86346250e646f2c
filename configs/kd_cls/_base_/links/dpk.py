# DPK on the last map, with KD on the logits.
links = dict(
    logits=dict(
        student='head.fc',
        teacher='head.fc',
        criterion=dict(type='kd_mm.KDLoss', tau=1.0)),
    map=dict(
        student='backbone',
        teacher='backbone',
        stages=[
            dict(type='kd_mm.Resize', side='teacher', mode='area'),
            dict(type='kd_mm.DPK', fallback=0.9)],
        criterion=dict(type='kd_mm.MSELoss', weight=0.3)))
