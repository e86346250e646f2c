# The teacher: half as wide again, trained twice as long.
_base_ = './gfl_r18w16_digits.py'
model = dict(
    backbone=dict(base_channels=24), neck=dict(in_channels=[24, 48, 96, 192]))
max_epochs = 16
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR', by_epoch=True, begin=0, T_max=max_epochs,
        eta_min=2e-5, convert_to_iter_based=True),
]
