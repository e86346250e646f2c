_base_ = [
    '../_base_/pairs/cifar100/wrn_40_2_shufflenet_v1.py',
    '../_base_/links/sokd.py',
]
model = dict(links={{_base_.sokd.shufflenet}})
