# ReviewKD by pair: the stages and the pooled vector, weight, width inside and warm-up of
# the authors' code. The teacher gives what stands in front of its last ReLUs; on ImageNet
# the student does too.
def _review(student, teacher, weight, mid, warmup=20, levels=None):
    link = dict(
        student=[*student, 'neck'],
        teacher=[*teacher, 'neck'],
        levels=levels,
        stages=[dict(type='kd_mm.ReviewKD', mid=mid)],
        criterion=dict(type='kd_mm.HCLLoss', weight=weight))
    if warmup:
        link['schedule'] = dict(warmup=warmup)
    return dict(review=link)


_maps = ['backbone.layer1', 'backbone.layer2', 'backbone.layer3']
review = dict(
    resnet56_resnet20=_review(
        student=_maps,
        teacher=[f'{name}.8.relu2@input' for name in _maps],
        weight=0.6,
        mid=64),
    resnet32x4_resnet8x4=_review(
        student=_maps,
        teacher=[f'{name}.4.relu2@input' for name in _maps],
        weight=5.0,
        mid=256),
    resnet34_resnet18=_review(
        student=[f'backbone.layer{i}.1.relu@input' for i in (1, 2, 3, 4)],
        teacher=[
            f'backbone.layer{i}.{last}.relu@input'
            for i, last in enumerate((2, 3, 5, 2), start=1)],
        levels=[1, 3, 5, 7, 8],  # the second ReLU of a block, and the vector
        weight=1.0,
        mid=512,
        warmup=0))
