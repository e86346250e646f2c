_base_ = [
    '../_base_/models/shufflenet_v1.py', '../_base_/datasets/cifar100_fast.py',
    '../_base_/schedules/cifar_240e.py', 'mmpretrain::_base_/default_runtime.py'
]
optim_wrapper = dict(optimizer=dict(lr=0.01))
