_base_ = ['../_base_/pairs/cifar100/wrn_40_2_wrn_16_2.py', '../_base_/links/dpk.py']
model = dict(links={{_base_.dpk.other}})
optim_wrapper = {{_base_.dpk_optimizer_cifar}}
