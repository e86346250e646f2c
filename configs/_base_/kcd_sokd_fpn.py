# KCD and SoKD in one link, in front of a channel-anchored criterion: the teacher's
# channels are put into the student's order, then augmented; no adapter is needed where
# the widths are equal.
# ChannelShuffle and ChannelDrop are left out: they undo what dense features are
# compared for (docs/results.md).
_operators = [
    'ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Rotate', 'Cutout', 'Noise']
kcd_sokd_fpn = dict(
    fpn=dict(
        student='neck',
        teacher='neck',
        levels=[0, 1, 2, 3, 4],
        stages=[
            dict(type='kd_mm.ChannelAlign', fit_at=1, share=True),
            dict(type='kd_mm.DAFA', search_epochs=4, operators=_operators),
            dict(type='kd_mm.DAM', normalise='area', supervision='gt', heatmaps=1)],
        criterion=dict(type='kd_mm.PKDLoss', weight=6.0)))
