_base_ = ['../_base_/pairs/cifar10/resnet56_resnet20.py', '../_base_/links/kd.py']
model = dict(links={{_base_.kd_standardised.links}}, student={{_base_.kd_standardised.student}})
