_base_ = ['../_base_/pairs/cifar100/wrn_40_2_wrn_16_2.py', '../_base_/links/sokd.py']
model = dict(links={{_base_.sokd.cifar100}})
