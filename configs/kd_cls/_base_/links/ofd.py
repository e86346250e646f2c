# OFD in front of the last ReLU of every stage, by pair: the authors' 1e-3 of a sum is
# 1e-3 C H W / 4 of a mean per element of the last map.
def _ofd(student, teacher, channels, side=8):
    """Number of each side's last block of a stage; channels of the last map."""
    return dict(
        preact=dict(
            student=[f'backbone.layer{i}.{student}.relu2@input' for i in (1, 2, 3)],
            teacher=[f'backbone.layer{i}.{teacher}.relu2@input' for i in (1, 2, 3)],
            stages=[dict(type='kd_mm.OFD')],
            criterion=dict(
                type='kd_mm.OFDLoss', weight=1e-3 * channels * side**2)))


ofd = dict(
    resnet56_resnet20=_ofd(student=2, teacher=8, channels=64),
    resnet32x4_resnet8x4=_ofd(student=0, teacher=4, channels=256))
