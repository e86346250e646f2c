# CIFAR-100 as one tensor, on the accelerator where there is one: the same crops and
# flips as cifar100.py, a batch at a time.
data_preprocessor = dict(
    num_classes=100,
    mean=[129.304, 124.070, 112.434],
    std=[68.170, 65.392, 70.418],
    to_rgb=False)
_images = dict(
    type='CIFAR100', data_root='data/cifar100', pipeline=[dict(type='PackInputs')])
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    collate_fn=dict(type='kd_mm.ready_batch'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='kd_mm.TensorImages',
        dataset=dict(split='train', **_images),
        crop=4,
        flip=0.5))
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    collate_fn=dict(type='kd_mm.ready_batch'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='kd_mm.TensorImages', dataset=dict(split='test', **_images)))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
