_base_ = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
model = dict(
    _delete_=True,
    type='kd_mm.Distill',
    student={{_base_.model}},
    teacher=dict(
        config='mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/'
        'swin-transformer/swin_tiny_224_b16x64_300e_imagenet_20210616_090925-66df6be6.pth'),
    trial_size=(224, 224))
