# SoKD as in sokd_stable.py, with a draw for every image of a batch of 64 and operators
# that can be given up.
links = dict(
    map=dict(
        student='backbone',
        teacher='backbone',
        stages=[
            dict(
                type='kd_mm.DAFA',
                search_epochs=20,
                operators=[
                    'ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Rotate', 'Cutout',
                    'Noise'],
                draws=64,
                least_probability=0.0),
            dict(type='kd_mm.DAM', normalise='area', supervision='cam', heatmaps=1)],
        criterion=dict(type='kd_mm.MSELoss', weight=2.0)))
