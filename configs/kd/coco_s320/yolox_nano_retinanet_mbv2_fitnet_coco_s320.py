# Another family: YOLOX-nano (BGR, 0..255) teaches a RetinaNet that wants RGB in -1..1.
_base_ = './retinanet_mbv2_coco_s320.py'
model = dict(
    _delete_=True,
    type='kd_mm.Distill',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::yolox/yolox_nano_8xb8-300e_coco.py',
        checkpoint='data/weights/yolox_nano_coco_mmdet.pth'),
    links=dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            levels=[0, 1, 2],  # strides 8, 16, 32; the student has five levels
            stages=[dict(type='kd_mm.ConvAdapter')],
            criterion=dict(type='kd_mm.MSELoss', weight=1.0))))
