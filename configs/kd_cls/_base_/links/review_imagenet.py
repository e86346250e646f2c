# ReviewKD on the four stages and the pooled vector.
_taps = [
    'backbone.layer1', 'backbone.layer2', 'backbone.layer3', 'backbone.layer4', 'neck']
links = dict(
    review=dict(
        student=_taps,
        teacher=_taps,
        stages=[dict(type='kd_mm.ReviewKD', mid=512)],
        criterion=dict(type='kd_mm.HCLLoss', weight=1.0)))
