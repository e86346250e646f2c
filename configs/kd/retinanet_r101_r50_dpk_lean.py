_base_ = ['../_base_/pairs/retinanet_r101_r50.py', '../_base_/dpk_fpn.py']
model = dict(inherit=['neck', 'bbox_head'], links={{_base_.dpk_lean_fpn}})
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))  # the authors'
