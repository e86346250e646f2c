# SoKD on the five levels of an FPN: DAFA augments the teacher's side, a small adapter
# brings the student to its width, DAM confines FitNet's loss to areas of interest.
# ChannelShuffle and ChannelDrop are left out: they undo what dense features are
# compared for. DAM's heads learn from the boxes: alone they collapse (docs/results.md).
_operators = [
    'ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Rotate', 'Cutout', 'Noise']
sokd_fpn = dict(
    fpn=dict(
        student='neck',
        teacher='neck',
        levels=[0, 1, 2, 3, 4],
        stages=[
            dict(type='kd_mm.DAFA', search_epochs=4, operators=_operators),
            dict(type='kd_mm.ConvAdapter', layers=3),
            dict(type='kd_mm.DAM', normalise='area', supervision='gt', heatmaps=1)],
        criterion=dict(type='kd_mm.MSELoss', weight=2.0)))
