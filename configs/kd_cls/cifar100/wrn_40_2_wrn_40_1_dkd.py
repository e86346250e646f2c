_base_ = ['../_base_/pairs/cifar100/wrn_40_2_wrn_40_1.py', '../_base_/links/dkd.py']
model = dict(links={{_base_.dkd.wrn_40_2_wrn_40_1}})
