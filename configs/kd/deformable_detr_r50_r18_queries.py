_base_ = ['../_base_/pairs/deformable_detr_r50_r18.py', '../_base_/detr_queries.py']
model = dict(links={{_base_.detr_queries}})
