_base_ = ['../_base_/pairs/rtmdet_s_tiny.py', '../_base_/crosskd_heads.py']
model = dict(links={{_base_.crosskd_rtmdet}})
