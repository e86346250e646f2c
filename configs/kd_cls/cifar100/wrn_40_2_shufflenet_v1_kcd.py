_base_ = [
    '../_base_/pairs/cifar100/wrn_40_2_shufflenet_v1.py',
    '../_base_/links/kcd.py',
]
model = dict(links={{_base_.links}})
