# Same family, half the width: YOLOX-nano teaches YOLOX-femto on photographs.
_base_ = '../../kd/coco_s320/yolox_femto_coco_s320.py'
model = dict(
    _delete_=True,
    type='kd_mm.Distill',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::yolox/yolox_nano_8xb8-300e_coco.py',
        checkpoint='data/weights/yolox_nano_coco_mmdet.pth'))
