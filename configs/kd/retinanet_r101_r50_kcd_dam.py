_base_ = ['../_base_/pairs/retinanet_r101_r50.py', '../_base_/sokd_fpn.py']
model = dict(links={{_base_.kcd_dam_fpn}})
