_base_ = ['../_base_/pairs/imagenet/resnet50_mobilenet_v1.py', '../_base_/links/dpk.py']
model = dict(links={{_base_.dpk.resnet50_mobilenet_v1}}, student={{_base_.dpk_task}})
optim_wrapper = {{_base_.dpk_optimizer}}
