_base_ = [
    '../_base_/models/resnet20.py', '../_base_/datasets/cifar10_subset_fast.py',
    '../_base_/schedules/cifar_240e.py', 'mmpretrain::_base_/default_runtime.py'
]
model = dict(backbone=dict(shortcut='A'), head=dict(num_classes=10))
