"""Toy-sized but real detectors and classifiers; those with queries: query_toys.py."""

from mmengine.config import ConfigDict

_NORM = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
BGR = dict(type='DetDataPreprocessor', bgr_to_rgb=True, pad_size_divisor=32, **_NORM)
_NMS = dict(type='nms', iou_threshold=0.5)


def resnet(width: int = 8, **kwargs) -> dict:
    """Backbone of every detector but YOLOX and RTMDet."""
    return dict(
        type='ResNet',
        depth=18,
        base_channels=width,
        norm_cfg=dict(type='BN', requires_grad=True),
        **kwargs,
    )


def _fpn(width: int, base: int, outs: int = 5, **kwargs) -> dict:
    return dict(
        type='FPN',
        in_channels=[base, base * 2, base * 4, base * 8],
        out_channels=width,
        num_outs=outs,
        **kwargs,
    )


def _dense_head(kind: str, width: int, classes: int, **kwargs) -> dict:
    return dict(
        type=kind,
        num_classes=classes,
        in_channels=width,
        feat_channels=width,
        stacked_convs=1,
        loss_cls=dict(
            type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0
        ),
        **kwargs,
    )


def retinanet(*, width: int = 16, base: int = 8, classes: int = 4, **pre) -> ConfigDict:
    """RetinaNet on ResNet-18."""
    return ConfigDict(
        type='mmdet.RetinaNet',
        data_preprocessor={**BGR, **pre},
        backbone=resnet(base),
        neck=_fpn(width, base, start_level=1, add_extra_convs='on_input'),
        bbox_head=_dense_head(
            'RetinaHead',
            width,
            classes,
            anchor_generator=dict(
                type='AnchorGenerator',
                octave_base_scale=4,
                scales_per_octave=1,
                ratios=[1.0],
                strides=[8, 16, 32, 64, 128],
            ),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0),
        ),
        train_cfg=dict(
            assigner=dict(
                type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0
            ),
            sampler=dict(type='PseudoSampler'),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        test_cfg=dict(nms_pre=100, score_thr=0.05, nms=_NMS, max_per_img=10),
    )


def atss(*, width: int = 16, classes: int = 4) -> ConfigDict:
    """ATSS on ResNet-18."""
    model = retinanet(width=width, classes=classes)
    model.type = 'mmdet.ATSS'
    model.bbox_head = _dense_head(
        'ATSSHead',
        width,
        classes,
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=8,
            scales_per_octave=1,
            ratios=[1.0],
            strides=[8, 16, 32, 64, 128],
        ),
        norm_cfg=dict(type='GN', num_groups=4),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True),
    )
    model.train_cfg = dict(
        assigner=dict(type='ATSSAssigner', topk=9),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    )
    return model


def gfl(*, width: int = 16, classes: int = 4) -> ConfigDict:
    """GFL on ResNet-18."""
    model = atss(width=width, classes=classes)
    head = model.bbox_head
    model.type, head.type = 'mmdet.GFL', 'GFLHead'
    head.loss_cls = dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0)
    head.loss_dfl = dict(type='DistributionFocalLoss', loss_weight=0.25)
    head.reg_max = 8
    head.pop('loss_centerness')
    return model


def fcos(*, width: int = 16, classes: int = 4) -> ConfigDict:
    """FCOS on ResNet-18."""
    model = retinanet(width=width, classes=classes)
    model.type = 'mmdet.FCOS'
    model.bbox_head = _dense_head(
        'FCOSHead',
        width,
        classes,
        norm_cfg=dict(type='GN', num_groups=4),
        loss_bbox=dict(type='IoULoss', loss_weight=1.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True),
    )
    model.train_cfg = None
    return model


def rtmdet(*, widen: float = 0.125, classes: int = 4) -> ConfigDict:
    """RTMDet with three levels, which share convolutions and not norms."""
    model = yolox(widen=widen, classes=classes)
    width = int(256 * widen)
    model.type = 'mmdet.RTMDet'
    model.neck = dict(
        type='CSPNeXtPAFPN',
        in_channels=[width, width * 2, width * 4],
        out_channels=width,
        num_csp_blocks=1,
    )
    model.bbox_head = dict(
        type='RTMDetSepBNHead',
        num_classes=classes,
        in_channels=width,
        feat_channels=width,
        stacked_convs=1,
        with_objectness=False,
        exp_on_reg=False,
        share_conv=True,
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        norm_cfg=dict(type='BN'),
        act_cfg=dict(type='SiLU'),
    )
    model.train_cfg = dict(
        assigner=dict(type='DynamicSoftLabelAssigner', topk=13),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    )
    return model


def yolox(*, widen: float = 0.125, classes: int = 4) -> ConfigDict:
    """YOLOX with three levels."""
    width = int(256 * widen)
    return ConfigDict(
        type='mmdet.YOLOX',
        data_preprocessor=dict(
            type='DetDataPreprocessor', pad_size_divisor=32, pad_value=114
        ),
        backbone=dict(type='CSPDarknet', deepen_factor=0.33, widen_factor=widen),
        neck=dict(
            type='YOLOXPAFPN',
            in_channels=[width, width * 2, width * 4],
            out_channels=width,
            num_csp_blocks=1,
        ),
        bbox_head=dict(
            type='YOLOXHead',
            num_classes=classes,
            in_channels=width,
            feat_channels=width,
            stacked_convs=1,
        ),
        train_cfg=dict(assigner=dict(type='SimOTAAssigner', center_radius=2.5)),
        test_cfg=dict(score_thr=0.01, nms=dict(type='nms', iou_threshold=0.65)),
    )


def _two_stage(kind: str, width: int, classes: int, base: int) -> ConfigDict:
    rcnn_train = dict(
        assigner=dict(
            type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5
        ),
        sampler=dict(
            type='RandomSampler', num=16, pos_fraction=0.25, add_gt_as_proposals=True
        ),
        pos_weight=-1,
        mask_size=14,
        debug=False,
    )
    rpn_train = dict(
        assigner=dict(
            type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3
        ),
        sampler=dict(
            type='RandomSampler', num=32, pos_fraction=0.5, add_gt_as_proposals=False
        ),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    )
    proposals = dict(
        nms_pre=50,
        max_per_img=20,
        nms=dict(type='nms', iou_threshold=0.7),
        min_bbox_size=0,
    )
    return ConfigDict(
        type=kind,
        data_preprocessor=dict(pad_mask=True, **BGR),
        backbone=resnet(base),
        neck=_fpn(width, base),
        rpn_head=dict(
            type='RPNHead',
            in_channels=width,
            feat_channels=width,
            anchor_generator=dict(
                type='AnchorGenerator',
                scales=[4],
                ratios=[1.0],
                strides=[4, 8, 16, 32, 64],
            ),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True),
            loss_bbox=dict(type='L1Loss'),
        ),
        roi_head=dict(
            type='StandardRoIHead',
            bbox_roi_extractor=dict(
                type='SingleRoIExtractor',
                roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
                out_channels=width,
                featmap_strides=[4, 8, 16, 32],
            ),
            bbox_head=dict(
                type='Shared2FCBBoxHead',
                in_channels=width,
                fc_out_channels=32,
                roi_feat_size=7,
                num_classes=classes,
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]
                ),
                loss_cls=dict(type='CrossEntropyLoss'),
                loss_bbox=dict(type='L1Loss'),
            ),
        ),
        train_cfg=dict(rpn=rpn_train, rpn_proposal=proposals, rcnn=rcnn_train),
        test_cfg=dict(
            rpn=proposals,
            rcnn=dict(score_thr=0.05, nms=_NMS, max_per_img=10, mask_thr_binary=0.5),
        ),
    )


def faster_rcnn(*, width: int = 16, classes: int = 4, base: int = 8) -> ConfigDict:
    """Faster R-CNN on ResNet-18 with FPN."""
    return _two_stage('mmdet.FasterRCNN', width, classes, base)


def mask_rcnn(*, width: int = 16, classes: int = 4, base: int = 8) -> ConfigDict:
    """Mask R-CNN on ResNet-18 with FPN."""
    model = _two_stage('mmdet.MaskRCNN', width, classes, base)
    model.roi_head.mask_roi_extractor = dict(
        type='SingleRoIExtractor',
        roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
        out_channels=width,
        featmap_strides=[4, 8, 16, 32],
    )
    model.roi_head.mask_head = dict(
        type='FCNMaskHead',
        num_convs=1,
        in_channels=width,
        conv_out_channels=width,
        num_classes=classes,
        loss_mask=dict(type='CrossEntropyLoss', use_mask=True),
    )
    return model


def classifier(*, base: int = 8, classes: int = 4, **head) -> ConfigDict:
    """ImageClassifier on ResNet-18."""
    return ConfigDict(
        type='mmpretrain.ImageClassifier',
        data_preprocessor=dict(
            type='ClsDataPreprocessor', num_classes=classes, to_rgb=True, **_NORM
        ),
        backbone=dict(
            type='ResNet',
            depth=18,
            base_channels=base,
            stem_channels=base,
            out_indices=(1, 2, 3),
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=classes,
            in_channels=base * 8,
            loss=dict(type='CrossEntropyLoss'),
            **head,
        ),
    )
