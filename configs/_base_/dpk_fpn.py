# DPK + FGD on an FPN, sizes of the authors' code. RetinaNet rebuilds P4 to P7, Faster
# R-CNN P4 and P5; FGD compares the finer levels as they are. Both students begin with
# the teacher's neck and heads: inherit=[...] in the config.
_retina = dict(
    type='kd_mm.DPK',
    levels=[1, 2, 3, 4],
    patch=[4, 2, 1, 1],
    encoder=[(512, 4, 8), (256, 4, 8), (256, 4, 8), (256, 4, 8)],
    decoder=[(1024, 4, 8), (512, 4, 8), (256, 4, 8), (256, 4, 8)])
_rcnn = dict(
    type='kd_mm.DPK',
    levels=[2, 3],
    patch=[4, 2],
    encoder=[(512, 4, 8), (256, 4, 8)],
    decoder=[(1024, 4, 8), (512, 4, 8)])
_neck = dict(student='neck', teacher='neck')
_fgd = dict(type='kd_mm.FGDLoss')

dpk_retina_fpn = dict(
    fpn=dict(levels=[0, 1, 2, 3, 4], stages=[_retina], criterion=_fgd, **_neck))
dpk_rcnn_fpn = dict(
    fpn=dict(
        levels=[0, 1, 2, 3],
        stages=[_rcnn],
        criterion=dict(
            foreground=0.0128,
            background=0.0064,
            attention=0.0128,
            relation=0.134,
            **_fgd),
        **_neck))

# For comparison: half of the teacher always, and none of it.
dpk_fixed_fpn = dict(
    fpn=dict(
        levels=[0, 1, 2, 3, 4],
        stages=[dict(ratio=0.5, **_retina)],
        criterion=_fgd,
        **_neck))
dpk_no_prior_fpn = dict(
    fpn=dict(
        levels=[0, 1, 2, 3, 4],
        stages=[dict(ratio=0.0, **_retina)],
        criterion=_fgd,
        **_neck))

# The same in less memory: half precision inside, blocks computed once more backwards.
dpk_lean_fpn = dict(
    fpn=dict(
        levels=[0, 1, 2, 3, 4],
        stages=[dict(dtype='bf16', checkpoint=True, **_retina)],
        criterion=_fgd,
        **_neck))

# With the other methods: the teacher's channels aligned first, areas of interest last.
dpk_kcd_dam_fpn = dict(
    fpn=dict(
        levels=[0, 1, 2, 3, 4],
        stages=[
            dict(type='kd_mm.ChannelAlign', share=True), _retina,
            dict(type='kd_mm.DAM', normalise='area', supervision='gt', heatmaps=1)],
        criterion=_fgd,
        **_neck))
