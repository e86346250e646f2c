_base_ = ['../_base_/pairs/cifar100/resnet32x4_resnet8x4.py', '../_base_/links/kd.py']
model = dict(links={{_base_.kd_standardised.links}}, student={{_base_.kd_standardised.student}})
