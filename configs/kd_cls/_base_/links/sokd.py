# SoKD around FitNet, as in the authors' code: the second stage of a CIFAR network, an
# adapter of three convolutions with BN and ReLU, all nine operators, areas of class
# heatmaps that nothing but the two networks' agreement trains.
def _sokd(classes, tap='backbone.layer2', teacher=None, before=(), search=50):
    heads = classes + 4  # L_D is a mean over all channels of the three predictions
    return dict(
        map=dict(
            student=tap,
            teacher=teacher or tap,
            stages=[
                *before,
                dict(
                    type='kd_mm.DAFA',
                    start=0,
                    search_epochs=search,
                    objective='published',
                    estimator='relax'),
                dict(
                    type='kd_mm.ConvAdapter',
                    layers=3,
                    kernel_size=(1, 3, 3),
                    norm_cfg=dict(type='BN'),
                    act_last=True),
                dict(
                    type='kd_mm.DAM',
                    weight=(1e3 * classes / heads, 2e3 / heads, 2e3 / heads),
                    heatmaps=classes,
                    hidden=None,
                    relu_heads=True)],
            criterion=dict(type='kd_mm.MSELoss', weight=1000.0)))


def _review(classes=1000):
    """Around ReviewKD without its pooled vector, which has no areas."""
    link = _sokd(classes)['map']
    dafa, _, dam = link['stages']
    link.update(
        student=[f'backbone.layer{i}.1.relu@input' for i in (1, 2, 3, 4)],
        teacher=[
            f'backbone.layer{i}.{last}.relu@input'
            for i, last in enumerate((2, 3, 5, 2), start=1)],
        levels=[1, 3, 5, 7],  # the second ReLU of a block
        stages=[
            dict(dafa, search_epochs=5), dict(type='kd_mm.ReviewKD', mid=512),
            dict(type='kd_mm.DAM', heatmaps=classes, hidden=None, relu_heads=True)],
        criterion=dict(type='kd_mm.HCLLoss', weight=1.0))
    return dict(review=link)


_smaller = [dict(type='kd_mm.Resize', side='teacher', mode='area')]
sokd = dict(
    resnet34_resnet18=_review(),
    cifar10=_sokd(classes=10),
    digits=_sokd(classes=10, search=6),  # as long a part of 30 epochs
    cifar100=_sokd(classes=100),
    vgg13_vgg8=_sokd(classes=100, tap='backbone.block2'),
    vgg13_mobilenet_v2=_sokd(
        classes=100, tap='backbone.blocks.2', teacher='backbone.block2', before=_smaller),
    resnet50_mobilenet_v2=_sokd(
        classes=100, tap='backbone.blocks.2', teacher='backbone.layer2', before=_smaller),
    shufflenet=_sokd(classes=100, before=_smaller),
    # the last map of any two networks: no published setting
    imagenet=_sokd(classes=1000, tap='backbone', before=_smaller))
