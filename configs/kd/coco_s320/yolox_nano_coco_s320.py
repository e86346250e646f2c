# The teacher, for evaluation: MMDetection's YOLOX-nano at its 416 px.
_base_ = 'mmdet::yolox/yolox_nano_8xb8-300e_coco.py'
data_root = 'data/coco_s320/'

val_dataloader = dict(
    num_workers=2,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/')))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator
