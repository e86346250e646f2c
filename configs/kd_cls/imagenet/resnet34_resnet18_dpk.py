# DPK as its authors released it: the student starts from ImageNet's own ResNet-18, trains
# 100 epochs more with a rate halved every 25, RandAugment and random erasing, 4096 images
# a step (here 8 GPUs x 256, twice). A gain over the start is not the method's alone.
_base_ = ['../_base_/pairs/imagenet/resnet34_resnet18.py', '../_base_/links/dpk.py']
model = dict(links={{_base_.dpk.resnet34_resnet18}}, student={{_base_.dpk_task}})
load_from = {{_base_.dpk_recipe.start}}
train_dataloader = {{_base_.dpk_recipe.loader}}
train_cfg = dict(max_epochs=100)
param_scheduler = {{_base_.dpk_recipe.schedule}}
optim_wrapper = dict(
    optimizer=dict(lr=0.1),
    accumulative_counts=2,
    constructor={{_base_.dpk_optimizer.constructor}},
    paramwise_cfg={{_base_.dpk_optimizer.paramwise_cfg}})
