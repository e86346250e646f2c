_base_ = [
    '../_base_/pairs/cifar10/resnet56_resnet20.py',
    '../_base_/links/sokd_stable.py',
]
model = dict(links={{_base_.per_image}})
