# SoKD around ReviewKD on the four stages. ChannelShuffle and ChannelDrop are left out
# (docs/results.md).
_taps = [f'backbone.layer{i}' for i in (1, 2, 3, 4)]
_operators = [
    'ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Rotate', 'Cutout', 'Noise']
links = dict(
    review=dict(
        student=_taps,
        teacher=_taps,
        stages=[
            dict(type='kd_mm.DAFA', search_epochs=5, operators=_operators),
            dict(type='kd_mm.ReviewKD', mid=512),
            dict(type='kd_mm.DAM')],
        criterion=dict(type='kd_mm.HCLLoss', weight=1.0)))
