_base_ = [
    '../_base_/pairs/imagenet/resnet50_mobilenet_v2.py',
    '../_base_/links/sokd.py',
]
model = dict(links={{_base_.sokd.imagenet}})
