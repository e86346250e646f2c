# scikit-learn's handwritten digits, 8 x 8 enlarged to 16 x 16; no flip: a mirrored digit
# is another sign.
data_preprocessor = dict(
    num_classes=10, mean=[77.8] * 3, std=[95.9] * 3, to_rgb=False)
_images = dict(type='kd_mm.DigitImages', size=16, pipeline=[dict(type='PackInputs')])
train_dataloader = dict(
    batch_size=50,
    num_workers=0,
    collate_fn=dict(type='kd_mm.ready_batch'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='kd_mm.TensorImages', dataset=dict(split='train', **_images), crop=1))
val_dataloader = dict(
    batch_size=400,
    num_workers=0,
    collate_fn=dict(type='kd_mm.ready_batch'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='kd_mm.TensorImages', dataset=dict(split='val', **_images)))
test_dataloader = dict(
    batch_size=400,
    num_workers=0,
    collate_fn=dict(type='kd_mm.ready_batch'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='kd_mm.TensorImages', dataset=dict(split='test', **_images)))
val_evaluator = dict(type='Accuracy', topk=(1, ))
test_evaluator = val_evaluator
