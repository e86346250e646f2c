# SoKD around FitNet's loss on the last map of two networks of one width, as we would use
# it: no operator that undoes what channels mean, a policy that begins after an epoch,
# areas that learn the teacher's class activation maps, which cannot collapse.
def _stable(**policy):
    return dict(
        map=dict(
            student='backbone',
            teacher='backbone',
            stages=[
                dict(
                    type='kd_mm.DAFA',
                    search_epochs=20,
                    operators=[
                        'ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Rotate',
                        'Cutout', 'Noise'],
                    **policy),
                dict(type='kd_mm.DAM', normalise='area', supervision='cam', heatmaps=1)],
            criterion=dict(type='kd_mm.MSELoss', weight=2.0)))


links = _stable()
# a draw for every image of a batch of 64, and operators that can be given up
per_image = _stable(draws=64, least_probability=0.0)
