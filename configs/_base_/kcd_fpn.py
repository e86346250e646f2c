# KCD on the five levels of an FPN, in front of three channel-anchored criteria. The
# teacher's channels are put into the student's order once, after the first epoch; until
# then the link does not run. The head shares its weights over levels, so one map does.
_align = dict(
    type='kd_mm.ChannelAlign',
    transform='bipartite',
    similarity='gap',
    fit_at=1,
    images=5000,
    share=True)
_fpn = dict(
    student='neck', teacher='neck', levels=[0, 1, 2, 3, 4], stages=[_align])

kcd_pkd_fpn = dict(fpn=dict(criterion=dict(type='kd_mm.PKDLoss', weight=6.0), **_fpn))
kcd_cwd_fpn = dict(
    fpn=dict(criterion=dict(type='kd_mm.CWDLoss', tau=1.0, weight=10.0), **_fpn))
# FitNet's hint loss without its adapter: a freshly initialised adapter learns any order
# of channels equally well, so there would be nothing left to align.
kcd_fitnet_fpn = dict(fpn=dict(criterion=dict(type='kd_mm.MSELoss', weight=1.0), **_fpn))
