_base_ = ['../_base_/pairs/cifar100/resnet110_resnet32.py', '../_base_/links/dpk.py']
model = dict(links={{_base_.dpk.other}})
optim_wrapper = dict(
    optimizer=dict(nesterov=True),
    clip_grad=dict(max_norm=1.0),
    constructor={{_base_.dpk_optimizer.constructor}},
    paramwise_cfg={{_base_.dpk_optimizer.paramwise_cfg}})
