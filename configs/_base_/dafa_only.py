# SoKD without DAM: FitNet, its teacher augmented by DAFA.
# ChannelShuffle and ChannelDrop are left out: they undo what dense features are
# compared for (docs/results.md).
_operators = [
    'ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Rotate', 'Cutout', 'Noise']
dafa_fpn = dict(
    fpn=dict(
        student='neck',
        teacher='neck',
        levels=[0, 1, 2, 3, 4],
        stages=[
            dict(type='kd_mm.DAFA', search_epochs=4, operators=_operators),
            dict(type='kd_mm.ConvAdapter', layers=3)],
        criterion=dict(type='kd_mm.MSELoss', weight=2.0)))
