_base_ = ['../_base_/pairs/retinanet_r101_r50.py', '../_base_/crosskd_heads.py']
# KCD aligns the necks' channels for PKD; what CrossKD reads stays as it is.
model = dict(
    links=dict(
        head={{_base_.crosskd_retinanet.head}},
        fpn=dict(
            student='neck',
            teacher='neck',
            levels=[0, 1, 2, 3, 4],
            stages=[dict(type='kd_mm.ChannelAlign', share=True)],
            criterion=dict(type='kd_mm.PKDLoss', weight=2.0))))
