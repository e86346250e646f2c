# ReviewKD on the three stages and the pooled vector, weight of the authors' code.
_taps = ['backbone.layer1', 'backbone.layer2', 'backbone.layer3', 'neck']
links = dict(
    review=dict(
        student=_taps,
        teacher=_taps,
        stages=[dict(type='kd_mm.ReviewKD', mid=64)],
        schedule=dict(warmup=20),
        criterion=dict(type='kd_mm.HCLLoss', weight=0.6)))
