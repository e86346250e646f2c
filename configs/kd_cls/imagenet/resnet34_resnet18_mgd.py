_base_ = ['../_base_/pairs/imagenet/resnet34_resnet18.py', '../_base_/links/mgd.py']
model = dict(links={{_base_.mgd.imagenet}})
