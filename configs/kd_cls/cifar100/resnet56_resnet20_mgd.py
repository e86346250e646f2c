_base_ = ['../_base_/pairs/cifar100/resnet56_resnet20.py', '../_base_/links/mgd.py']
model = dict(links={{_base_.mgd.resnet56_resnet20}})
