_base_ = ['../_base_/pairs/cifar10/resnet56_resnet20.py', '../_base_/links/kcd.py']
model = dict(links={{_base_.links}})
