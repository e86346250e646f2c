# SoKD with the parts and weights of the authors' detector.
_base_ = ['../../_base_/pairs/yolox_nano_femto.py', '../../_base_/sokd_fpn.py']
model = dict(links=dict(fpn=dict(
    levels=[0, 1, 2],  # strides 8, 16, 32
    student='neck',
    teacher='neck',
    stages={{_base_.sokd_fpn.fpn.stages}},
    criterion={{_base_.sokd_fpn.fpn.criterion}})))
custom_hooks = [dict(type='kd_mm.DrawSoKDHook')]
