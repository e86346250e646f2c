_base_ = ['mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py', '../_base_/links/dpk.py']
model = dict(
    _delete_=True,
    type='kd_mm.Distill',
    student={{_base_.model}},
    teacher=dict(
        config='mmpretrain::resnet/resnet50_8xb32_in1k.py',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/resnet/'
        'resnet50_8xb32_in1k_20210831-ea4938fc.pth'),
    links={{_base_.links}},
    trial_size=(224, 224))
optim_wrapper = dict(  # the authors' for DPK's own modules
    constructor='kd_mm.DistillerOptimWrapperConstructor',
    paramwise_cfg=dict(
        distiller=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.95), weight_decay=1e-4)))
