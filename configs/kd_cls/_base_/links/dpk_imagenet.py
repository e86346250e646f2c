# DPK on the last two stages, with KD on the logits; sizes and weights of the authors'
# code for R34 to R18, divided by its 0.8 of the task loss.
_logits = dict(student='head.fc', teacher='head.fc')
links = dict(
    logits=dict(criterion=dict(type='kd_mm.KDLoss', tau=1.0), **_logits),
    last=dict(
        student='backbone.layer4',
        teacher='backbone.layer4',
        stages=[
            dict(
                type='kd_mm.DPK',
                fallback=0.8,
                encoder=(512, 6, 8),
                decoder=(512, 4, 8))],
        criterion=dict(type='kd_mm.MSELoss', weight=0.25)),
    middle=dict(
        student='backbone.layer3',
        teacher='backbone.layer3',
        stages=[
            dict(
                type='kd_mm.DPK',
                fallback=0.8,
                encoder=(256, 6, 8),
                decoder=(256, 4, 8))],
        criterion=dict(type='kd_mm.MSELoss', weight=0.25)))
