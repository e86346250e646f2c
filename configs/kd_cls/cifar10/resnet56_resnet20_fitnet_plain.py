_base_ = [
    '../_base_/pairs/cifar10/resnet56_resnet20.py',
    '../_base_/links/fitnet_plain.py',
]
model = dict(links={{_base_.links}})
