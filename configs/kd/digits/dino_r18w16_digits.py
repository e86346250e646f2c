# A small DINO on the digits, trained from scratch.
_base_ = './retinanet_r18w16_digits.py'
_deformable = dict(
    embed_dims=64, num_heads=4, num_levels=3, dropout=0.0, batch_first=True)
_attention = dict(embed_dims=64, num_heads=4, dropout=0.0, batch_first=True)
_ffn = dict(embed_dims=64, feedforward_channels=128, ffn_drop=0.0)
model = dict(
    type='DINO',
    num_queries=30,
    dn_cfg=dict(
        label_noise_scale=0.5,
        box_noise_scale=1.0,
        group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=30)),
    num_feature_levels=3,
    with_box_refine=True,
    as_two_stage=True,
    data_preprocessor=dict(pad_size_divisor=1),
    backbone=dict(out_indices=(1, 2, 3)),
    neck=dict(
        _delete_=True,
        type='ChannelMapper',
        in_channels=[32, 64, 128],
        kernel_size=1,
        out_channels=64,
        act_cfg=None,
        norm_cfg=dict(type='GN', num_groups=8),
        num_outs=3),
    encoder=dict(
        num_layers=2, layer_cfg=dict(self_attn_cfg=_deformable, ffn_cfg=_ffn)),
    decoder=dict(
        num_layers=3,
        return_intermediate=True,
        layer_cfg=dict(
            self_attn_cfg=_attention, cross_attn_cfg=_deformable, ffn_cfg=_ffn),
        post_norm_cfg=None),
    positional_encoding=dict(num_feats=32, normalize=True, offset=-0.5),
    bbox_head=dict(
        _delete_=True,
        type='DINOHead',
        num_classes=10,
        embed_dims=64,
        sync_cls_avg_factor=True,
        loss_cls=dict(
            type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25,
            loss_weight=2.0),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0)),
    train_cfg=dict(
        _delete_=True,
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='FocalLossCost', weight=2.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0)
            ])),
    test_cfg=dict(_delete_=True, max_per_img=30))
optim_wrapper = dict(
    optimizer=dict(lr=5e-4), clip_grad=dict(max_norm=0.1))
