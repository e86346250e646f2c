# A foundation model that knows no boxes: the directions of DINOv2's patches at the level
# of stride 16. Not published for this pair; the weight sets itself.
_base_ = '../_base_/pairs/retinanet_r101_r50.py'
model = dict(
    teacher=dict(
        _delete_=True,
        config='mmpretrain::dinov2/vit-small-p14_dinov2-pre_headless.py',
        checkpoint='https://download.openmmlab.com/mmpretrain/v1.0/dinov2/'
        'vit-small-p14_dinov2-pre_3rdparty_20230426-5641ca5a.pth',
        grid=16),
    links=dict(
        dino=dict(
            student='neck',
            teacher='backbone.layers.11',
            levels=dict(student=[1], teacher=[0]),
            stages=[dict(type='kd_mm.TokensToMap'), dict(type='kd_mm.ConvAdapter')],
            criterion=dict(type='kd_mm.CosineLoss'),
            share=0.5)))
