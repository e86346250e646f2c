_base_ = ['../_base_/pairs/cifar100/resnet32x4_resnet8x4.py', '../_base_/links/dkd.py']
model = dict(links={{_base_.dkd.resnet32x4_resnet8x4}})
