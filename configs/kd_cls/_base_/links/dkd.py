# DKD on the logits, by pair: the authors' weight of the classes other than the target,
# and their warm-up.
def _dkd(beta, tau=4.0, warmup=20):
    criterion = dict(type='kd_mm.DKDLoss', alpha=1.0, beta=beta, tau=tau)
    taps = dict(student='head.fc', teacher='head.fc')
    return dict(logits=dict(criterion=criterion, schedule=dict(warmup=warmup), **taps))


dkd = dict(
    resnet56_resnet20=_dkd(beta=2.0),
    resnet110_resnet32=_dkd(beta=2.0),
    resnet32x4_resnet8x4=_dkd(beta=8.0),
    wrn_40_2_wrn_16_2=_dkd(beta=6.0),
    wrn_40_2_wrn_40_1=_dkd(beta=6.0),
    vgg13_vgg8=_dkd(beta=6.0),
    imagenet=_dkd(beta=0.5, tau=1.0, warmup=1))
