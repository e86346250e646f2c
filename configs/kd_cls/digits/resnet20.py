# The teacher: the same widths, deeper, three times as long.
_base_ = './resnet8.py'
model = dict(backbone=dict(depth=20))
param_scheduler = dict(T_max=30)
train_cfg = dict(max_epochs=30, val_interval=30)
