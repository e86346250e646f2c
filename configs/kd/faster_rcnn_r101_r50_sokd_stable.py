_base_ = ['../_base_/pairs/faster_rcnn_r101_r50.py', '../_base_/sokd_fpn.py']
model = dict(links={{_base_.sokd_stable_fpn}})
