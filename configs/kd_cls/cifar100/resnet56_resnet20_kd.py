_base_ = ['../_base_/pairs/cifar100/resnet56_resnet20.py', '../_base_/links/kd.py']
model = dict(links={{_base_.kd.links}}, student={{_base_.kd.student}})
