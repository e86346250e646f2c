_base_ = ['mmpretrain::resnet/resnet18_8xb32_in1k.py', '../_base_/links/dpk.py']
model = dict(
    _delete_=True,
    type='kd_mm.Distill',
    student={{_base_.model}},
    teacher=dict(
        config='mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/'
        'swin-transformer/swin_tiny_224_b16x64_300e_imagenet_20210616_090925-66df6be6.pth'),
    links={{_base_.links}},
    trial_size=(224, 224))
optim_wrapper = dict(  # the authors' for DPK's own modules
    constructor='kd_mm.DistillerOptimWrapperConstructor',
    paramwise_cfg=dict(
        distiller=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.95), weight_decay=1e-4)))
