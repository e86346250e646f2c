# The student: 300 images, a few seconds on a CPU.
_base_ = [
    '../_base_/models/resnet8_narrow.py', '../_base_/datasets/digits.py',
    '../_base_/schedules/digits_30e.py', 'mmpretrain::_base_/default_runtime.py'
]
train_dataloader = dict(dataset=dict(dataset=dict(indices=300)))
randomness = dict(seed=0)
default_hooks = dict(logger=dict(interval=3), checkpoint=dict(interval=30))
