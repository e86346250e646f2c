# One class: the student finds persons only, whatever its teacher knows.
_base_ = './yolox_femto_coco_s320.py'
_persons = dict(dataset=dict(metainfo=dict(classes=('person',))))
model = dict(bbox_head=dict(num_classes=1))
train_dataloader = _persons
val_dataloader = _persons
test_dataloader = val_dataloader
