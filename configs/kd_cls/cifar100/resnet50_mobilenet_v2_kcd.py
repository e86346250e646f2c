_base_ = ['../_base_/pairs/cifar100/resnet50_mobilenet_v2.py', '../_base_/links/kcd.py']
model = dict(links={{_base_.links}})
