"""A toy run that the command-line tools can be started on: data and configs."""

import json

import mmcv
import numpy as np
import torch
import toys
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope


def write_data(folder):
    """Eight images with one bright box each, in COCO's format."""
    random = np.random.RandomState(0)
    images, annotations = [], []
    for index in range(8):
        image = random.randint(0, 100, (64, 64, 3), dtype=np.uint8)
        x, y = random.randint(0, 32, 2).tolist()
        image[y : y + 24, x : x + 24] = 255
        mmcv.imwrite(image, str(folder / f'{index}.png'))
        images.append(dict(id=index, file_name=f'{index}.png', width=64, height=64))
        box = dict(bbox=[x, y, 24, 24], area=576, iscrowd=0, category_id=1)
        annotations.append(dict(id=index + 1, image_id=index, **box))
    categories = [dict(id=1, name='box')]
    content = dict(info={}, images=images, annotations=annotations)
    content['categories'] = categories
    (folder / 'all.json').write_text(json.dumps(content))


def toy_config(folder, *, distilled, epochs=1):
    """A whole config for MMDetection over the toy data in ``folder``."""
    load = dict(type='LoadImageFromFile')
    boxes = dict(type='LoadAnnotations', with_bbox=True)
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    # `scale_factor` is set by Resize
    resize = dict(type='Resize', scale=(64, 64), keep_ratio=True)
    pack = dict(type='PackDetInputs', meta_keys=keys)
    dataset = dict(
        type='CocoDataset',
        data_root=str(folder),
        ann_file='all.json',
        data_prefix=dict(img=''),
        metainfo=dict(classes=('box',)),
        pipeline=[load, boxes, resize, pack],
    )
    train = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dataset,
    )
    test = {**train, 'dataset': {**dataset, 'test_mode': True}}
    metric = dict(type='CocoMetric', ann_file=f'{folder}/all.json', metric='bbox')
    model = toys.retinanet(classes=1)
    model.test_cfg.score_thr = 0.0  # an untrained model finds something, too
    if distilled:
        teacher = toys.retinanet(width=24, classes=1)
        model = dict(
            type='kd_mm.Distill',
            student=model,
            teacher=dict(config=dict(model=teacher), allow_random=True),
            links=dict(
                fpn=dict(
                    student='neck',
                    teacher='neck',
                    levels=[0, 1, 2, 3, 4],
                    stages=[dict(type='kd_mm.ConvAdapter')],
                    criterion=dict(type='kd_mm.MSELoss', weight=1.0),
                )
            ),
        )
    return Config(
        dict(
            default_scope='mmdet',
            model=model,
            train_dataloader=train,
            val_dataloader=test,
            test_dataloader=test,
            val_evaluator=metric,
            test_evaluator=metric,
            train_cfg=dict(
                type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=10
            ),
            val_cfg=dict(type='ValLoop'),
            test_cfg=dict(type='TestLoop'),
            optim_wrapper=dict(
                type='OptimWrapper', optimizer=dict(type='SGD', lr=0.001)
            ),
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', interval=1),
                logger=dict(type='LoggerHook', interval=1),
                visualization=dict(type='DetVisualizationHook'),
            ),
            randomness=dict(seed=0),
        )
    )


def write_teacher(folder):
    """A plain config of a wider model, ``wide.py``, and its weights, ``wide.pth``."""
    cfg = toy_config(folder, distilled=False)
    cfg.model = toys.retinanet(width=24, classes=1)
    cfg.dump(folder / 'wide.py')
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict()), folder / 'wide.pth')


def classifier_config(folder):
    """A distilled classifier for MMPretrain, preprocessor on the top level."""

    def model(width):
        return dict(
            type='ImageClassifier',
            backbone=dict(
                type='ResNet_CIFAR', depth=18, stem_channels=width, base_channels=width
            ),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=2, in_channels=width * 8),
        )

    dataset = dict(
        type='CustomDataset',
        data_root=str(folder),
        ann_file='classes.txt',
        with_label=True,
        classes=['dark', 'bright'],
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    )
    loader = dict(
        batch_size=4,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dataset,
    )
    student, teacher = model(8), model(16)
    return Config(
        dict(
            default_scope='mmpretrain',
            data_preprocessor=dict(num_classes=2, mean=[127.5] * 3, std=[127.5] * 3),
            model=dict(
                type='kd_mm.Distill',
                student=student,
                teacher=dict(config=dict(model=teacher), allow_random=True),
                links=dict(
                    logits=dict(
                        student='head.fc',
                        teacher='head.fc',
                        criterion=dict(type='kd_mm.KDLoss', tau=4.0, weight=1.0),
                    )
                ),
            ),
            train_dataloader=loader,
            val_dataloader=loader,
            test_dataloader=loader,
            val_evaluator=dict(type='Accuracy', topk=(1,)),
            test_evaluator=dict(type='Accuracy', topk=(1,)),
            train_cfg=dict(by_epoch=True, max_epochs=1, val_interval=1),
            val_cfg={},
            test_cfg={},
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        )
    )
