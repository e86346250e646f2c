# The teacher sees the photographs without the student's colour augmentation.
_base_ = './yolox_nano_femto_fitnet_coco_s320.py'
model = dict(teacher=dict(plain_colours=True))
