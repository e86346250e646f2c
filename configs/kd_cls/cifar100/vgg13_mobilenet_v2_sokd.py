_base_ = ['../_base_/pairs/cifar100/vgg13_mobilenet_v2.py', '../_base_/links/sokd.py']
model = dict(links={{_base_.sokd.vgg13_mobilenet_v2}})
