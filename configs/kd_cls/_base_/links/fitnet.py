# FitNet on the second stage: one 1x1 convolution with BN and ReLU, weight 100, as in the
# public CIFAR recipe.
links = dict(
    map=dict(
        student='backbone.layer2',
        teacher='backbone.layer2',
        stages=[dict(type='kd_mm.ConvAdapter', norm_cfg=dict(type='BN'), act_last=True)],
        criterion=dict(type='kd_mm.MSELoss', weight=100.0)))
