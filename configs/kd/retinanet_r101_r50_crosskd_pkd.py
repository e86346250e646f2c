_base_ = ['../_base_/pairs/retinanet_r101_r50.py', '../_base_/crosskd_heads.py']
model = dict(
    links=dict(
        head={{_base_.crosskd_retinanet.head}},
        fpn=dict(
            student='neck',
            teacher='neck',
            levels=[0, 1, 2, 3, 4],
            criterion=dict(type='kd_mm.PKDLoss', weight=2.0))))  # the authors', here
