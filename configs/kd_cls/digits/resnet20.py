# The teacher: the same widths, deeper, twice the images.
_base_ = './resnet8.py'
model = dict(backbone=dict(depth=20))
train_dataloader = dict(dataset=dict(dataset=dict(indices=None)))
