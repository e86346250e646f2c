# YOLOX-nano teaches YOLOX-femto by DPK, with small modules.
_base_ = './yolox_femto_coco_s320.py'
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
            levels=[0, 1, 2],  # strides 8, 16, 32
            stages=[
                dict(
                    type='kd_mm.DPK',
                    patch=[4, 2, 1],
                    encoder=(64, 2, 4),
                    decoder=(64, 1, 4))],
            criterion=dict(type='kd_mm.MSELoss', weight=5.0))))
