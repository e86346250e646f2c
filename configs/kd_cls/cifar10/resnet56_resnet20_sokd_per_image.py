_base_ = [
    '../_base_/pairs/cifar10/resnet56_resnet20.py',
    '../_base_/links/sokd_per_image.py',
]
model = dict(links={{_base_.links}})
