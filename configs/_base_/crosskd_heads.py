# CrossKD: the student's feature after the third of four convolutions of its head runs on
# through the teacher's last convolution and predictor; what comes out is compared with
# what the teacher says. One link a head, with the authors' weights; `rest` names the
# teacher's modules behind the tap, branch by branch.
_cls = 'bbox_head.cls_convs'
_reg = 'bbox_head.reg_convs'
_taps = [f'{_cls}.2.activate@input', f'{_reg}.2.activate@input']
_cls_rest = [f'{_cls}.2.activate', f'{_cls}[3:]']
_reg_rest = [f'{_reg}.2.activate', f'{_reg}[3:]']
_moments = dict(type='kd_mm.MatchMoments')
_qfl = dict(type='kd_mm.QFLLoss')

crosskd_gfl = dict(
    head=dict(
        student=_taps,
        teacher=_taps,
        stages=[
            _moments,
            dict(
                type='kd_mm.CrossKD',
                rest=[
                    [*_cls_rest, 'bbox_head.gfl_cls'],
                    [*_reg_rest, 'bbox_head.gfl_reg', 'bbox_head.scales.{level}']])],
        criterion=dict(
            type='kd_mm.HeadLoss',
            classes=_qfl,
            boxes=dict(type='kd_mm.LDLoss', tau=1.0, weight=4.0))))

crosskd_retinanet = dict(
    head=dict(
        student=_taps,
        teacher=_taps,
        stages=[
            _moments,
            dict(
                type='kd_mm.CrossKD',
                rest=[
                    [*_cls_rest, 'bbox_head.retina_cls'],
                    [*_reg_rest, 'bbox_head.retina_reg']])],
        criterion=dict(
            type='kd_mm.HeadLoss',
            classes=_qfl,
            boxes=dict(type='kd_mm.BoxLoss', form='deltas'))))

# Centre-ness is a third branch; it reads the same feature as the boxes.
crosskd_atss = dict(
    head=dict(
        student=[*_taps, _taps[1]],
        teacher=[*_taps, _taps[1]],
        stages=[
            _moments,
            dict(
                type='kd_mm.CrossKD',
                rest=[
                    [*_cls_rest, 'bbox_head.atss_cls'],
                    [*_reg_rest, 'bbox_head.atss_reg', 'bbox_head.scales.{level}'],
                    [*_reg_rest, 'bbox_head.atss_centerness']])],
        criterion=dict(
            type='kd_mm.HeadLoss',
            classes=_qfl,
            boxes=dict(
                type='kd_mm.BoxLoss', form='deltas', stds=[0.1, 0.1, 0.2, 0.2]),
            centres=_qfl)))

# After the second convolution, as the authors do here. The centre-ness of MMDetection's
# FCOS reads the class feature unless centerness_on_reg is set. norm_on_bbox=True wants
# form='distances'.
_fcos_taps = [f'{_cls}.1.activate@input', f'{_reg}.1.activate@input']
_fcos_rest = [[f'{convs}.1.activate', f'{convs}[2:]'] for convs in (_cls, _reg)]
crosskd_fcos = dict(
    head=dict(
        student=[*_fcos_taps, _fcos_taps[0]],
        teacher=[*_fcos_taps, _fcos_taps[0]],
        stages=[
            _moments,
            dict(
                type='kd_mm.CrossKD',
                rest=[
                    [*_fcos_rest[0], 'bbox_head.conv_cls'],
                    [
                        *_fcos_rest[1], 'bbox_head.conv_reg',
                        'bbox_head.scales.{level}'
                    ],
                    [*_fcos_rest[0], 'bbox_head.conv_centerness']])],
        criterion=dict(
            type='kd_mm.HeadLoss',
            classes=dict(weight=0.4, **_qfl),
            boxes=dict(type='kd_mm.BoxLoss', form='log_distances', weight=0.75),
            centres=dict(weight=0.4, **_qfl))))

# Heads in which every level has modules of its own: one tap a level. The first of two
# convolutions; a narrower student gets an adapter in front.
# For a teacher with exp_on_reg=True (RTMDet-m, -l, -x) say form='log_distances': behind
# its last layer stands an exponential, which is no module.
_rtm_taps = [
    f'{convs}.{level}.0.activate@input' for convs in (_cls, _reg) for level in range(3)]
crosskd_rtmdet = dict(
    head=dict(
        student=_rtm_taps,
        teacher=_rtm_taps,
        stages=[
            dict(type='kd_mm.ConvAdapter'), _moments,
            dict(
                type='kd_mm.CrossKD',
                rest=[
                    [
                        'bbox_head.cls_convs.{level}.0.activate',
                        'bbox_head.cls_convs.{level}[1:]', 'bbox_head.rtm_cls.{level}'
                    ],
                    [
                        'bbox_head.reg_convs.{level}.0.activate',
                        'bbox_head.reg_convs.{level}[1:]', 'bbox_head.rtm_reg.{level}'
                    ]])],
        criterion=dict(
            type='kd_mm.HeadLoss',
            classes=_qfl,
            boxes=dict(type='kd_mm.BoxLoss', form='distances'))))

_yolox_cls = 'bbox_head.multi_level_cls_convs'
_yolox_reg = 'bbox_head.multi_level_reg_convs'
_yolox_taps = [
    f'{convs}.{level}.0.activate@input'
    for convs in (_yolox_cls, _yolox_reg, _yolox_reg) for level in range(3)]
_yolox_rest = [
    [f'{convs}.{{level}}.0.activate', f'{convs}.{{level}}[1:]']
    for convs in (_yolox_cls, _yolox_reg)]
crosskd_yolox = dict(
    head=dict(
        student=_yolox_taps,
        teacher=_yolox_taps,
        stages=[
            dict(type='kd_mm.ConvAdapter'), _moments,
            dict(
                type='kd_mm.CrossKD',
                rest=[
                    [*_yolox_rest[0], 'bbox_head.multi_level_conv_cls.{level}'],
                    [*_yolox_rest[1], 'bbox_head.multi_level_conv_reg.{level}'],
                    [*_yolox_rest[1], 'bbox_head.multi_level_conv_obj.{level}']])],
        criterion=dict(
            type='kd_mm.HeadLoss',
            classes=_qfl,
            boxes=dict(type='kd_mm.BoxLoss', form='deltas'),
            centres=_qfl)))

# Two-stage: the teacher's RoI head reads both necks, on the teacher's proposals. The mean
# of the four deltas, as the authors' L1.
crosskd_rcnn = dict(
    roi=dict(
        student='neck',
        teacher='neck',
        stages=[dict(type='kd_mm.TeacherRoIs')],
        criterion=dict(
            type='kd_mm.HeadLoss',
            classes=_qfl,
            boxes=dict(type='kd_mm.BoxL1Loss', weight=0.25))))
