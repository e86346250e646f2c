"""Toy-sized but real detectors with queries, as in toys.py."""

from mmengine.config import ConfigDict
from toys import BGR, resnet


def detr(*, dims: int = 32, classes: int = 4, base: int = 8) -> ConfigDict:
    """DETR with one encoder and two decoder layers."""
    attention = dict(embed_dims=dims, num_heads=4, dropout=0.0, batch_first=True)
    ffn = dict(embed_dims=dims, feedforward_channels=64, num_fcs=2)
    return ConfigDict(
        type='mmdet.DETR',
        num_queries=10,
        data_preprocessor=dict(BGR, pad_size_divisor=1),
        backbone=resnet(base, out_indices=(3,)),
        neck=dict(
            type='ChannelMapper',
            in_channels=[base * 8],
            kernel_size=1,
            out_channels=dims,
            act_cfg=None,
            norm_cfg=None,
            num_outs=1,
        ),
        encoder=dict(
            num_layers=1, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)
        ),
        decoder=dict(
            num_layers=2,
            layer_cfg=dict(
                self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn
            ),
            return_intermediate=True,
        ),
        positional_encoding=dict(num_feats=dims // 2, normalize=True),
        bbox_head=dict(
            type='DETRHead',
            num_classes=classes,
            embed_dims=dims,
            loss_cls=dict(type='CrossEntropyLoss', bg_cls_weight=0.1, class_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=5.0),
            loss_iou=dict(type='GIoULoss', loss_weight=2.0),
        ),
        train_cfg=dict(
            assigner=dict(
                type='HungarianAssigner',
                match_costs=[
                    dict(type='ClassificationCost', weight=1.0),
                    dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                    dict(type='IoUCost', iou_mode='giou', weight=2.0),
                ],
            )
        ),
        test_cfg=dict(max_per_img=10),
    )


def deformable_detr(
    *, queries: int = 12, classes: int = 4, base: int = 8
) -> ConfigDict:
    """Deformable DETR with box refinement, one encoder and two decoder layers."""
    model = detr(classes=classes, base=base)
    attention = dict(embed_dims=32, num_heads=4, dropout=0.0, batch_first=True)
    deformable = dict(attention, num_levels=2)
    ffn = dict(embed_dims=32, feedforward_channels=64, ffn_drop=0.0)
    for key in ('backbone', 'encoder', 'decoder', 'bbox_head'):
        model.pop(key)  # an update would merge
    model.update(
        type='mmdet.DeformableDETR',
        num_queries=queries,
        num_feature_levels=2,
        with_box_refine=True,
        as_two_stage=False,
        backbone=resnet(base, out_indices=(2, 3)),
        encoder=dict(
            num_layers=1, layer_cfg=dict(self_attn_cfg=deformable, ffn_cfg=ffn)
        ),
        decoder=dict(
            num_layers=2,
            return_intermediate=True,
            layer_cfg=dict(
                self_attn_cfg=attention, cross_attn_cfg=deformable, ffn_cfg=ffn
            ),
            post_norm_cfg=None,
        ),
        positional_encoding=dict(num_feats=16, normalize=True, offset=-0.5),
        bbox_head=dict(
            type='DeformableDETRHead',
            embed_dims=32,
            num_classes=classes,
            sync_cls_avg_factor=True,
            loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25),
            loss_bbox=dict(type='L1Loss', loss_weight=5.0),
            loss_iou=dict(type='GIoULoss', loss_weight=2.0),
        ),
    )
    model.neck.update(in_channels=[base * 4, base * 8], num_outs=2)
    model.neck.norm_cfg = dict(type='GN', num_groups=4)
    model.train_cfg.assigner.match_costs[0] = dict(type='FocalLossCost', weight=2.0)
    return model


def dino(*, queries: int = 12, classes: int = 4) -> ConfigDict:
    """DINO, which adds denoising queries in training."""
    model = deformable_detr(queries=queries, classes=classes)
    model.type, model.as_two_stage = 'mmdet.DINO', True
    model.bbox_head.type = 'DINOHead'
    model.dn_cfg = dict(
        label_noise_scale=0.5,
        box_noise_scale=1.0,
        group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=6),
    )
    return model
