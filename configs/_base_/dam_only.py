# SoKD without DAFA: FitNet, confined to DAM's areas.
dam_fpn = dict(
    fpn=dict(
        student='neck',
        teacher='neck',
        levels=[0, 1, 2, 3, 4],
        stages=[
            dict(type='kd_mm.ConvAdapter', layers=3),
            dict(type='kd_mm.DAM', normalise='area', supervision='gt', heatmaps=1)],
        criterion=dict(type='kd_mm.MSELoss', weight=2.0)))
