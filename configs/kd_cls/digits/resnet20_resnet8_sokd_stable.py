# SoKD around FitNet's loss on the last map, for equal widths: no adapter.
_base_ = '../_base_/pairs/digits/resnet20_resnet8.py'
_operators = [
    'ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Rotate', 'Cutout', 'Noise']
model = dict(
    links=dict(
        map=dict(
            student='backbone',
            teacher='backbone',
            stages=[
                dict(type='kd_mm.DAFA', search_epochs=4, operators=_operators),
                dict(type='kd_mm.DAM', normalise='area')],
            criterion=dict(type='kd_mm.MSELoss', weight=2.0))))
