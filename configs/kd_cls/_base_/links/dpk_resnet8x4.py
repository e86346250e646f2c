# DPK on the last two stages, with KD on the logits; sizes and weights of the authors'
# code for R32x4 to R8x4.
_logits = dict(student='head.fc', teacher='head.fc')
links = dict(
    logits=dict(criterion=dict(type='kd_mm.KDLoss', tau=1.0), **_logits),
    last=dict(
        student='backbone.layer3',
        teacher='backbone.layer3',
        stages=[
            dict(
                type='kd_mm.DPK',
                fallback=0.9,
                encoder=(180, 6, 4),
                decoder=(256, 4, 8))],
        criterion=dict(type='kd_mm.MSELoss', weight=0.3)),
    middle=dict(
        student='backbone.layer2',
        teacher='backbone.layer2',
        stages=[
            dict(
                type='kd_mm.DPK',
                fallback=0.9,
                encoder=(160, 6, 4),
                decoder=(128, 4, 8))],
        criterion=dict(type='kd_mm.MSELoss', weight=0.18)))
