_base_ = [
    '../_base_/pairs/cifar100/resnet32x4_shufflenet_v2.py',
    '../_base_/links/dpk.py',
]
model = dict(links={{_base_.dpk.other}})
optim_wrapper = {{_base_.dpk_optimizer_cifar}}
