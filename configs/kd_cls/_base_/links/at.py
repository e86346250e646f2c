# AT on the three stages; sum and weight of the public CIFAR recipe.
_taps = ['backbone.layer1', 'backbone.layer2', 'backbone.layer3']
links = dict(
    maps=dict(
        student=_taps,
        teacher=_taps,
        criterion=dict(type='kd_mm.ATLoss', weight=1000.0)))
