# 100 images have labels; on all others the student learns from the teacher alone.
_base_ = '../../_base_/pairs/retinanet_digits.py'
model = dict(
    links=dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            criterion=dict(type='kd_mm.CWDLoss', weight=10.0))))
train_dataloader = dict(dataset=dict(indices=100))
unlabelled_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset',
        data_root='data/digits/',
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        indices=range(100, 1600),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(128, 128), keep_ratio=True),
            dict(type='PackDetInputs')]))
