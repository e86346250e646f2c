# MGD on the last map, whole channels masked, by width and size of the teacher's map: the
# authors' 7e-5 of a sum is 7e-5 C H W of a mean per element.
def _mgd(channels, side):
    return dict(
        map=dict(
            student='backbone',
            teacher='backbone',
            stages=[dict(type='kd_mm.MGD', ratio=0.15, mask='channel')],
            criterion=dict(
                type='kd_mm.MSELoss', weight=round(7e-5 * channels * side**2, 3))))


mgd = dict(
    resnet56_resnet20=_mgd(64, 8),
    resnet32x4_resnet8x4=_mgd(256, 8),
    imagenet=_mgd(512, 7))
