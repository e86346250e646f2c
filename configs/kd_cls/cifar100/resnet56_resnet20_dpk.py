_base_ = ['../_base_/pairs/cifar100/resnet56_resnet20.py', '../_base_/links/dpk.py']
model = dict(links={{_base_.dpk.resnet56_resnet20}})
optim_wrapper = {{_base_.dpk_optimizer_cifar}}
