# LD: KD at temperature 10 over the bins of each side of a box, where ATSS assigns a box
# and around. For heads that predict a distribution of every side (GFL).
ld_head = dict(
    boxes=dict(
        student='bbox_head[1]',
        teacher='bbox_head[1]',
        stages=[dict(type='kd_mm.BoxRegions')],
        criterion=dict(type='kd_mm.LDLoss', weight=1.0)))
