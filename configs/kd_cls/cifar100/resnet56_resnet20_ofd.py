_base_ = ['../_base_/pairs/cifar100/resnet56_resnet20.py', '../_base_/links/ofd.py']
model = dict(links={{_base_.ofd.resnet56_resnet20}})
