_base_ = ['../_base_/pairs/gfl_r101_r50.py', '../_base_/fitnet_fpn.py']
model = dict(links={{_base_.fitnet_fpn}})
