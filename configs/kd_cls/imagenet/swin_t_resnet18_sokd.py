_base_ = ['../_base_/pairs/imagenet/swin_t_resnet18.py', '../_base_/links/sokd.py']
model = dict(links={{_base_.sokd.imagenet}})
