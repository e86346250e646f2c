# SoKD around FitNet on the last map. ChannelShuffle and ChannelDrop are left out
# (docs/results.md).
_operators = [
    'ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Rotate', 'Cutout', 'Noise']
links = dict(
    map=dict(
        student='backbone',
        teacher='backbone',
        stages=[
            dict(type='kd_mm.Resize', side='teacher', mode='area'),
            dict(type='kd_mm.DAFA', search_epochs=20, operators=_operators),
            dict(type='kd_mm.ConvAdapter', layers=3),
            dict(type='kd_mm.DAM')],
        criterion=dict(type='kd_mm.MSELoss', weight=2.0)))
