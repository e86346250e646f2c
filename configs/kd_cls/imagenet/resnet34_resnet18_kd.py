_base_ = ['../_base_/pairs/imagenet/resnet34_resnet18.py', '../_base_/links/kd.py']
model = dict(links={{_base_.kd_imagenet.links}}, student={{_base_.kd_imagenet.student}})
