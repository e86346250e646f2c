_base_ = [
    '../_base_/models/vgg13.py', '../_base_/datasets/cifar100_fast.py',
    '../_base_/schedules/cifar_240e.py', 'mmpretrain::_base_/default_runtime.py'
]
