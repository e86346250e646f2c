_base_ = [
    '../_base_/pairs/gfl_r101_r50.py', '../_base_/crosskd_heads.py',
    '../_base_/pkd_fpn.py'
]
model = dict(
    links=dict(head={{_base_.crosskd_gfl.head}}, fpn={{_base_.pkd_fpn.fpn}}))
