# A subset of CIFAR-10 in repacked pickles, normalised as the public option-A ResNets
# want it.
data_preprocessor = dict(
    num_classes=10,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=False)
_images = dict(
    type='kd_mm.RepackedCIFAR',
    data_root='data/cifar10',
    folder='cifar-10-python',
    pipeline=[dict(type='PackInputs')])
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
val_evaluator = dict(type='Accuracy', topk=(1, ))
test_evaluator = val_evaluator
