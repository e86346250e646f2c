model = dict(
    type='ImageClassifier',
    backbone=dict(type='kd_mm.MobileNetV2CIFAR'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        in_channels=1280,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0)))
