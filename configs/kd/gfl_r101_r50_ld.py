_base_ = ['../_base_/pairs/gfl_r101_r50.py', '../_base_/ld_head.py']
model = dict(links={{_base_.ld_head}})
