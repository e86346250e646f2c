_base_ = ['../_base_/pairs/cifar100/resnet110_resnet32.py', '../_base_/links/kcd.py']
model = dict(links={{_base_.links}})
