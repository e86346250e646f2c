# SoKD around FitNet on the last map of two ResNets of equal widths: no adapter.
# ChannelShuffle and ChannelDrop are left out (docs/results.md).
_operators = [
    'ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Rotate', 'Cutout', 'Noise']
links = dict(
    map=dict(
        student='backbone',
        teacher='backbone',
        stages=[
            dict(type='kd_mm.DAFA', search_epochs=4, operators=_operators),
            dict(type='kd_mm.DAM', normalise='area')],
        criterion=dict(type='kd_mm.MSELoss', weight=2.0)))
