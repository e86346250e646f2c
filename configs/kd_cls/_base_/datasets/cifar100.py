# CIFAR-100 with MMPretrain's own pipeline, image by image.
_base_ = 'mmpretrain::_base_/datasets/cifar100_bs16.py'
train_dataloader = dict(batch_size=64)
val_dataloader = dict(batch_size=250)
test_dataloader = dict(batch_size=250)
val_evaluator = dict(topk=(1, 5))
test_evaluator = dict(topk=(1, 5))
