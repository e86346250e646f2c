_base_ = ['../_base_/pairs/cifar100/vgg13_vgg8.py', '../_base_/links/dkd.py']
model = dict(links={{_base_.dkd.vgg13_vgg8}})
