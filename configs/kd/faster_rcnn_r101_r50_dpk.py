_base_ = ['../_base_/pairs/faster_rcnn_r101_r50.py', '../_base_/dpk_fpn.py']
model = dict(inherit=['neck', 'rpn_head', 'roi_head'], links={{_base_.dpk_rcnn_fpn}})
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))  # the authors'
