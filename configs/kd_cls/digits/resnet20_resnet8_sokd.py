_base_ = ['../_base_/pairs/digits/resnet20_resnet8.py', '../_base_/links/sokd.py']
model = dict(links={{_base_.sokd.digits}})
