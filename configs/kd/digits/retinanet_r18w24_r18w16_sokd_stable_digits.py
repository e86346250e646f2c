_base_ = '../../_base_/pairs/retinanet_digits.py'
_operators = [
    'ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Rotate', 'Cutout', 'Noise']
model = dict(
    links=dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            stages=[
                dict(type='kd_mm.DAFA', operators=_operators),
                dict(type='kd_mm.ConvAdapter'),
                dict(type='kd_mm.DAM', normalise='area', supervision='gt', heatmaps=1)],
            criterion=dict(type='kd_mm.MSELoss', weight=2.0))))
custom_hooks = [dict(type='kd_mm.DrawSoKDHook')]
