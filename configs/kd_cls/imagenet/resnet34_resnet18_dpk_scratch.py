# DPK with the student from scratch, by MMPretrain's recipe of 100 epochs.
_base_ = ['../_base_/pairs/imagenet/resnet34_resnet18.py', '../_base_/links/dpk.py']
model = dict(links={{_base_.dpk.resnet34_resnet18}}, student={{_base_.dpk_task}})
optim_wrapper = {{_base_.dpk_optimizer}}
