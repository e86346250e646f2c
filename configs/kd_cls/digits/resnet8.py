_base_ = [
    '../_base_/models/resnet8_narrow.py', '../_base_/datasets/digits.py',
    '../_base_/schedules/digits_10e.py', 'mmpretrain::_base_/default_runtime.py'
]
