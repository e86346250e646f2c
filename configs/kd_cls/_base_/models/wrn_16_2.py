model = dict(
    type='ImageClassifier',
    backbone=dict(type='kd_mm.WideResNetCIFAR', depth=16, widen=2),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        in_channels=128,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0)))
