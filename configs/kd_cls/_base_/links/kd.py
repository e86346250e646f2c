# KD on the logits, and what the task's own loss is multiplied with beside it: kd of the
# public CIFAR recipe, kd_imagenet of ImageNet's.
_logits = dict(student='head.fc', teacher='head.fc')
kd = dict(
    links=dict(
        logits=dict(
            criterion=dict(type='kd_mm.KDLoss', tau=4.0, weight=0.9), **_logits)),
    student=dict(head=dict(loss=dict(loss_weight=0.1))))
kd_imagenet = dict(
    links=dict(
        logits=dict(
            criterion=dict(type='kd_mm.KDLoss', tau=1.0, weight=0.5), **_logits)),
    student=dict(head=dict(loss=dict(loss_weight=0.5))))

# The z-scores of both sides' logits in place of the logits (arXiv 2403.01427).
kd_standardised = dict(
    links=dict(
        logits=dict(
            criterion=dict(
                type='kd_mm.KDLoss', tau=2.0, weight=9.0, standardise=True),
            **_logits)),
    student=dict(head=dict(loss=dict(loss_weight=1.0))))
