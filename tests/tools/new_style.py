"""The toy run of ``conftest.py`` in MMEngine's new style, without a default scope."""

DETECTOR = """
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, Resize
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.evaluation import CocoMetric
from mmdet.models import (
    FPN, DetDataPreprocessor, FocalLoss, L1Loss, ResNet, RetinaHead, RetinaNet)
from mmdet.models.task_modules import (
    AnchorGenerator, DeltaXYWHBBoxCoder, MaxIoUAssigner, PseudoSampler)
from mmdet.visualization import DetLocalVisualizer
from mmengine.dataset import DefaultSampler
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from mmengine.visualization import LocalVisBackend
from torch.optim import SGD

default_scope = None
model = dict(
    type=RetinaNet,
    data_preprocessor=dict(
        type=DetDataPreprocessor, mean=[120.0] * 3, std=[58.0] * 3,
        bgr_to_rgb=True, pad_size_divisor=32),
    backbone=dict(
        type=ResNet, depth=18, base_channels=8, norm_cfg=dict(type='BN')),
    neck=dict(
        type=FPN, in_channels=[8, 16, 32, 64], out_channels=16, num_outs=5,
        start_level=1, add_extra_convs='on_input'),
    bbox_head=dict(
        type=RetinaHead, num_classes=1, in_channels=16, feat_channels=16,
        stacked_convs=1,
        anchor_generator=dict(
            type=AnchorGenerator, octave_base_scale=4, scales_per_octave=1,
            ratios=[1.0], strides=[8, 16, 32, 64, 128]),
        bbox_coder=dict(type=DeltaXYWHBBoxCoder),
        loss_cls=dict(type=FocalLoss, use_sigmoid=True),
        loss_bbox=dict(type=L1Loss)),
    train_cfg=dict(
        assigner=dict(
            type=MaxIoUAssigner, pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
        sampler=dict(type=PseudoSampler), allowed_border=-1, pos_weight=-1,
        debug=False),
    test_cfg=dict(
        nms_pre=100, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=10))

_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=LoadAnnotations, with_bbox=True),
    dict(type=Resize, scale=(64, 64), keep_ratio=True),
    dict(type=PackDetInputs, meta_keys=_keys)]
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=CocoDataset, data_root='{folder}', ann_file='all.json',
        data_prefix=dict(img=''), metainfo=dict(classes=('box', )),
        pipeline=pipeline))
val_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=CocoDataset, data_root='{folder}', ann_file='all.json',
        data_prefix=dict(img=''), metainfo=dict(classes=('box', )),
        pipeline=pipeline, test_mode=True))
test_dataloader = val_dataloader
val_evaluator = dict(
    type=CocoMetric, ann_file='{folder}/all.json', metric='bbox')
test_evaluator = val_evaluator
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=1, val_interval=10)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.001))
default_hooks = dict(
    checkpoint=dict(type=CheckpointHook, interval=1),
    logger=dict(type=LoggerHook, interval=1),
    visualization=dict(type=DetVisualizationHook))
visualizer = dict(
    type=DetLocalVisualizer, name='visualizer',
    vis_backends=[dict(type=LocalVisBackend)])
randomness = dict(seed=0)
"""

# All three methods: KCD reads the pipelines, DAM is drawn, DPK's optimiser constructs.
DISTILLED = """
from torch.optim import AdamW

from mmengine.config import read_base

from kd_mm.criteria import CWDLoss
from kd_mm.distill import Distill
from kd_mm.hooks import DrawSoKDHook
from kd_mm.optimizers import DistillerOptimWrapperConstructor
from kd_mm.stages import DAFA, DAM, ChannelAlign, ConvAdapter

with read_base():
    from .detector import *

model = dict(
    type=Distill,
    student=model,
    teacher=dict(config={teacher}, allow_random=True),
    links=dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            stages=[
                dict(type=ChannelAlign, fit_at=0, images=8, share=True),
                dict(type=DAFA, start=0, search_epochs=1),
                dict(type=ConvAdapter),
                dict(type=DAM, top_k=3, supervision='gt', heatmaps=1)],
            criterion=dict(type=CWDLoss, tau=1.0))))
custom_hooks = [dict(type=DrawSoKDHook, images=1)]
optim_wrapper.update(
    constructor=DistillerOptimWrapperConstructor,
    paramwise_cfg=dict(distiller=dict(type=AdamW, lr=1e-4)))
"""

CLASSIFIER = """
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import DefaultSampler
from mmpretrain.datasets import CustomDataset, PackInputs
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import (
    GlobalAveragePooling, ImageClassifier, LinearClsHead, ResNet_CIFAR)
from torch.optim import SGD

from kd_mm.criteria import KDLoss
from kd_mm.distill import Distill

default_scope = None
data_preprocessor = dict(num_classes=2, mean=[127.5] * 3, std=[127.5] * 3)


def network(width):
    return dict(
        type=ImageClassifier,
        backbone=dict(
            type=ResNet_CIFAR, depth=18, stem_channels=width, base_channels=width),
        neck=dict(type=GlobalAveragePooling),
        head=dict(type=LinearClsHead, num_classes=2, in_channels=width * 8))


model = dict(
    type=Distill,
    student=network(8),
    teacher=dict(config=dict(model=network(16)), allow_random=True),
    links=dict(
        logits=dict(
            student='head.fc', teacher='head.fc',
            criterion=dict(type=KDLoss, tau=4.0, weight=1.0))))
del network
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=CustomDataset, data_root='{folder}', ann_file='classes.txt',
        with_label=True, classes=['dark', 'bright'],
        pipeline=[dict(type=LoadImageFromFile), dict(type=PackInputs)]))
val_dataloader = test_dataloader = train_dataloader
val_evaluator = test_evaluator = dict(type=Accuracy, topk=(1, ))
train_cfg = dict(by_epoch=True, max_epochs=1, val_interval=1)
val_cfg = test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type=SGD, lr=0.01))
"""
