_base_ = [
    '../_base_/pairs/retinanet_r101_r50.py', '../_base_/crosskd_heads.py',
    '../_base_/sokd_fpn.py'
]
model = dict(
    links=dict(
        head={{_base_.crosskd_retinanet.head}}, fpn={{_base_.sokd_stable_fpn.fpn}}))
