model = dict(
    type='ImageClassifier',
    backbone=dict(type='kd_mm.ResNetCIFAR', depth=8, channels=(8, 8, 16, 32)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=32,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0)))
