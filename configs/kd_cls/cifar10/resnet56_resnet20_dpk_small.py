_base_ = ['../_base_/pairs/cifar10/resnet56_resnet20.py', '../_base_/links/dpk.py']
model = dict(links={{_base_.dpk_small}})
optim_wrapper = {{_base_.dpk_small_optimizer}}
