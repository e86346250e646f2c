_base_ = ['../_base_/pairs/atss_r101_r50.py', '../_base_/crosskd_heads.py']
model = dict(links={{_base_.crosskd_atss}})
