"""Areas, samples and stages that the tests of DAM share."""

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from kd_mm.pair import FeaturePair
from kd_mm.stages import DAM
from kd_mm.stages.sokd.areas import Areas


def random_areas(n=3, kinds=2, height=9, width=13, *, big=6.0):
    heat = torch.rand(n, kinds, height, width)
    size = torch.rand(n, 2, height, width) * big
    return Areas(heat, size, torch.rand(n, 2, height, width))


def sample(boxes, labels):
    out = DetDataSample()
    out.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes).view(-1, 4), labels=torch.tensor(labels).long()
    )
    return out


def make_pair(channels=6, sizes=((9, 13), (5, 7)), n=2):
    student, teacher = (
        [torch.randn(n, channels, *size, requires_grad=side == 0) for size in sizes]
        for side in range(2)
    )
    samples = [sample([[4.0, 4, 30, 20]], [1]) for _ in range(n)]
    return FeaturePair(
        link='x',
        student=student,
        teacher=teacher,
        samples=samples,
        image_size=(72, 104),
    )


def ready(pair, **kwargs) -> DAM:
    stage = DAM(**kwargs)
    stage.setup(pair)
    return stage
