model = dict(
    type='ImageClassifier',
    backbone=dict(type='kd_mm.ResNetCIFAR', depth=32, channels=(32, 64, 128, 256)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        in_channels=256,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0)))
