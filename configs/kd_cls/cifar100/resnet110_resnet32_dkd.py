_base_ = ['../_base_/pairs/cifar100/resnet110_resnet32.py', '../_base_/links/dkd.py']
model = dict(links={{_base_.dkd.resnet110_resnet32}})
