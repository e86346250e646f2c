_base_ = ['../_base_/pairs/faster_rcnn_r101_r50.py', '../_base_/crosskd_heads.py']
model = dict(links={{_base_.crosskd_rcnn}})
