_base_ = ['../_base_/pairs/imagenet/swin_t_resnet18.py', '../_base_/links/dpk.py']
model = dict(links={{_base_.dpk.other}})
optim_wrapper = {{_base_.dpk_optimizer}}
