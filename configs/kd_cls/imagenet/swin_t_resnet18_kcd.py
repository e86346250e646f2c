_base_ = ['../_base_/pairs/imagenet/swin_t_resnet18.py', '../_base_/links/kcd.py']
model = dict(links={{_base_.links}})
