_base_ = './retinanet_r18w16_digits.py'

model = dict(
    _delete_=True,
    type='kd_mm.Distill',
    student={{_base_.model}},
    teacher=dict(
        config='kd_mm::kd/digits/retinanet_r18w24_digits.py',
        checkpoint='configs/kd/digits/retinanet_r18w24_digits.pth'),
    links=dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            stages=[
                dict(
                    type='kd_mm.DAFA',
                    operators=['ShearX', 'ShearY', 'TranslateX', 'TranslateY',
                               'Rotate', 'Cutout', 'Noise']),
                dict(type='kd_mm.ConvAdapter'),
                dict(type='kd_mm.DAM', normalise='area', supervision='gt', heatmaps=1)],
            criterion=dict(type='kd_mm.MSELoss', weight=2.0))))
custom_hooks = [dict(type='kd_mm.DrawSoKDHook')]
