_base_ = ['../_base_/pairs/cifar100/resnet32x4_resnet8x4.py', '../_base_/links/dpk.py']
model = dict(links={{_base_.dpk_lean.resnet32x4_resnet8x4}})
optim_wrapper = {{_base_.dpk_optimizer_cifar}}
