_base_ = [
    '../_base_/pairs/cifar100/resnet32x4_shufflenet_v2.py',
    '../_base_/links/kcd.py',
]
model = dict(links={{_base_.links}})
