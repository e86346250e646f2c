# The teacher: a backbone half as wide again, one more encoder layer, trained longer.
_base_ = './dino_r18w16_digits.py'
model = dict(
    backbone=dict(base_channels=24),
    neck=dict(in_channels=[48, 96, 192]),
    encoder=dict(num_layers=3))
max_epochs = 32
train_cfg = dict(max_epochs=max_epochs, val_interval=8)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR', by_epoch=True, begin=0, T_max=max_epochs,
        eta_min=2e-5, convert_to_iter_based=True),
]
