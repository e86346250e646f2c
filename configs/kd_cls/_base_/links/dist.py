# DIST on the logits: dist with CIFAR's temperature, dist_imagenet with ImageNet's.
_logits = dict(student='head.fc', teacher='head.fc')
dist = dict(logits=dict(criterion=dict(type='kd_mm.DISTLoss', tau=4.0), **_logits))
dist_imagenet = dict(
    logits=dict(criterion=dict(type='kd_mm.DISTLoss', tau=1.0), **_logits))
