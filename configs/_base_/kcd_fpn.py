# KCD on the five levels of an FPN, in front of three channel-anchored criteria. The
# teacher's channels are put into the order of the student that training starts from. The
# head shares its weights over levels, so one map does.
_fpn = dict(student='neck', teacher='neck', levels=[0, 1, 2, 3, 4])
_align = dict(type='kd_mm.ChannelAlign', transform='bipartite', images=5000, share=True)

kcd_pkd_fpn = dict(
    fpn=dict(
        stages=[_align], criterion=dict(type='kd_mm.PKDLoss', weight=6.0), **_fpn))
kcd_cwd_fpn = dict(
    fpn=dict(
        stages=[_align],
        criterion=dict(type='kd_mm.CWDLoss', tau=1.0, weight=10.0),
        **_fpn))
# FitNet's hint loss without its adapter: a freshly initialised adapter learns any order
# of channels equally well, so there would be nothing left to align. It sees how large a
# channel is, so each gets the student's mean and deviation.
kcd_fitnet_fpn = dict(
    fpn=dict(
        stages=[dict(scale=True, **_align)],
        criterion=dict(type='kd_mm.MSELoss', weight=1.0),
        **_fpn))
