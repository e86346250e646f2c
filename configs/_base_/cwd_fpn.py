# CWD on the five levels of an FPN: KL divergence of each channel's softmax over
# positions. No adapter: channel i is compared with channel i.
cwd_fpn = dict(
    fpn=dict(
        student='neck',
        teacher='neck',
        levels=[0, 1, 2, 3, 4],
        criterion=dict(type='kd_mm.CWDLoss', tau=1.0, weight=10.0)))
