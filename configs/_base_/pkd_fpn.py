# PKD on the five levels of an FPN: mean squared error of channel-wise z-scores, i.e.
# one minus Pearson's correlation. No adapter.
pkd_fpn = dict(
    fpn=dict(
        student='neck',
        teacher='neck',
        levels=[0, 1, 2, 3, 4],
        criterion=dict(type='kd_mm.PKDLoss', weight=6.0)))
