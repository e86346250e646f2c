_base_ = ['../_base_/pairs/imagenet/resnet34_resnet18.py', '../_base_/links/dkd.py']
model = dict(links={{_base_.dkd.imagenet}})
