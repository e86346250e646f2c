# DPK with KD on the logits, by pair: sizes and weights of the authors' code. What they
# multiply the task's own loss with stands beside the links.
def _map(tap, encoder, decoder, weight, *, fallback, floor, teacher=None, before=()):
    """One map: (width, blocks, heads) of the encoders and of the decoder."""
    dpk = dict(
        type='kd_mm.DPK',
        encoder=encoder,
        decoder=decoder,
        fallback=fallback,
        bounds=(floor, 0.95))
    return dict(
        student=tap,
        teacher=teacher or tap,
        stages=[*before, dpk],
        criterion=dict(type='kd_mm.MSELoss', weight=weight))


def _logits(weight):
    criterion = dict(type='kd_mm.KDLoss', tau=1.0, weight=weight)
    return dict(student='head.fc', teacher='head.fc', criterion=criterion)


_cifar = dict(fallback=0.9, floor=0.15)
_imagenet = dict(fallback=0.8, floor=0.1)
dpk = dict(
    resnet56_resnet20=dict(
        logits=_logits(1.0),
        last=_map('backbone.layer3', (128, 6, 8), (80, 4, 8), 0.3, **_cifar),
        middle=_map('backbone.layer2', (64, 6, 8), (48, 6, 8), 0.18, **_cifar)),
    resnet32x4_resnet8x4=dict(
        logits=_logits(1.0),
        last=_map('backbone.layer3', (180, 6, 4), (256, 4, 8), 0.3, **_cifar),
        middle=_map('backbone.layer2', (160, 6, 4), (128, 4, 8), 0.18, **_cifar)),
    resnet34_resnet18=dict(
        logits=_logits(0.8),
        last=_map('backbone.layer4', (512, 6, 8), (512, 4, 8), 0.2, **_imagenet),
        middle=_map('backbone.layer3', (256, 6, 8), (256, 4, 8), 0.2, **_imagenet)),
    resnet50_mobilenet_v1=dict(
        logits=_logits(0.8),
        last=_map(
            'backbone.stages.4', (640, 4, 8), (1536, 4, 16), 0.2,
            teacher='backbone.layer4', **_imagenet),
        middle=_map(
            'backbone.stages.3', (512, 4, 8), (640, 4, 8), 0.2,
            teacher='backbone.layer3', **_imagenet)),
    resnet50_mobilenet_v2=dict(
        logits=_logits(0.8),
        last=_map(
            'backbone.conv2', (640, 4, 8), (1536, 4, 16), 0.2,
            teacher='backbone.layer4', **_imagenet),
        middle=_map(
            'backbone.layer5', (512, 4, 8), (640, 4, 8), 0.2,
            teacher='backbone.layer3', **_imagenet)),
    # a pair whose sizes the authors do not give: the last map, our choice
    other=dict(
        logits=_logits(1.0),
        map=_map(
            'backbone', (256, 4, 8), (256, 4, 8), 0.3, **_cifar,
            before=[dict(type='kd_mm.Resize', side='teacher', mode='area')])))


# The same in less memory and time: half precision inside, blocks computed once more
# backwards.
def _lean(links):
    halved = dict(dtype='bf16', checkpoint=True)
    return {
        name: dict(link, stages=[dict(link['stages'][0], **halved)])
        if 'stages' in link else link
        for name, link in links.items()
    }


dpk_lean = dict(
    resnet32x4_resnet8x4=_lean(dpk['resnet32x4_resnet8x4']),
    resnet34_resnet18=_lean(dpk['resnet34_resnet18']))
# on ImageNet the task's own loss counts 0.8 beside them
dpk_task = dict(head=dict(loss=dict(loss_weight=0.8)))

# The modules' optimiser, of their own: no decay of biases and norms, warm-up in epochs,
# cosine to 1e-5.
def _optimizer(lr, warmup, **student):
    own = dict(
        type='AdamW',
        lr=lr,
        betas=(0.9, 0.95),
        weight_decay=1e-4,
        paramwise_cfg=dict(flat_decay_mult=0.0),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.01, end=warmup,
                 convert_to_iter_based=True),
            dict(type='CosineAnnealingLR', begin=warmup, eta_min=1e-5,
                 convert_to_iter_based=True)])
    return dict(
        constructor='kd_mm.DistillerOptimWrapperConstructor',
        paramwise_cfg=dict(distiller=own),
        **student)


dpk_optimizer = _optimizer(lr=1e-4, warmup=20)
# on CIFAR both networks' gradients are clipped
dpk_optimizer_cifar = _optimizer(
    lr=1e-4,
    warmup=20,
    optimizer=dict(nesterov=True),
    clip_grad=dict(max_norm=1.0))

# The student's training of the released ResNet-34 to ResNet-18.
dpk_recipe = dict(
    start=(
        'https://download.openmmlab.com/mmclassification/v0/resnet/'
        'resnet18_8xb32_in1k_20210831-fbbb1da6.pth'),
    loader=dict(
        batch_size=256,
        dataset=dict(
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='RandomResizedCrop', scale=224),
                dict(type='RandomFlip', prob=0.5, direction='horizontal'),
                dict(
                    type='RandAugment',
                    policies='timm_increasing',
                    num_policies=2,
                    total_level=10,
                    magnitude_level=9,
                    magnitude_std=0.5),
                dict(type='RandomErasing', erase_prob=0.25, mode='rand'),
                dict(type='PackInputs')])),
    schedule=dict(
        _delete_=True, type='StepLR', by_epoch=True, step_size=25, gamma=0.5))

# Small modules for runs of a few thousand steps, our choice: a quarter of the cost, the
# gradient a few times as large, and a rate at which they learn in time.
_small = dict(encoder=(64, 2, 4), decoder=(64, 1, 4), weight=3.0, **_cifar)
dpk_small = dict(
    logits=_logits(1.0), last=_map('backbone.layer3', **_small))
dpk_small_optimizer = _optimizer(lr=1e-3, warmup=1, clip_grad=dict(max_norm=1.0))
