# YOLOX-nano teaches YOLOX-femto by FitNet's loss, with DAFA and DAM.
_base_ = './yolox_femto_coco_s320.py'
model = dict(
    _delete_=True,
    type='kd_mm.Distill',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::yolox/yolox_nano_8xb8-300e_coco.py',
        checkpoint='data/weights/yolox_nano_coco_mmdet.pth'),
    links=dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            levels=[0, 1, 2],  # strides 8, 16, 32
            stages=[
                dict(
                    type='kd_mm.DAFA',
                    operators=['ShearX', 'ShearY', 'TranslateX', 'TranslateY',
                               'Rotate', 'Cutout', 'Noise']),
                dict(type='kd_mm.ConvAdapter'),
                dict(type='kd_mm.DAM', normalise='area', supervision='gt', heatmaps=1)],
            criterion=dict(type='kd_mm.MSELoss', weight=5.0))))
custom_hooks = [dict(type='kd_mm.DrawSoKDHook')]
