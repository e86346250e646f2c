"""What teaches the heads of DAM: agreement, ground truth, class activation maps."""

import math

import pytest
import torch
from dam_toys import make_pair, random_areas, ready, sample
from mmdet.models.losses.gaussian_focal_loss import gaussian_focal_loss
from mmpretrain.structures import DataSample

from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair
from kd_mm.stages import DAM
from kd_mm.stages.sokd.areas import (
    Areas,
    activation_loss,
    find_areas,
    ground_truth_loss,
    heatmap_loss,
)

# ---- agreement --------------------------------------------------------------------


def test_heads_and_student_learn_from_the_difference_only():
    pair = make_pair()
    stage = ready(pair, weight=3.0)
    student, teacher = stage.predict(pair.student), stage.predict(pair.teacher)
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        for name in ('heat', 'size', 'offset'):
            expected += float((getattr(s, name) - getattr(t, name)).square().mean())
    loss = stage(pair).losses['areas']
    assert float(loss) == pytest.approx(3 * expected / 2, rel=1e-4)
    loss.backward()
    assert all(p.grad is not None for p in stage.parameters())
    assert all(s.grad.abs().sum() > 0 for s in pair.student)
    assert all(t.grad is None for t in pair.teacher)


def test_each_head_has_its_weight():
    torch.manual_seed(0)
    one, other = random_areas(), random_areas()
    chosen = torch.eye(3).tolist()
    terms = [float(one.difference(other, weights)) for weights in chosen]
    whole = float(one.difference(other, (2.0, 3.0, 5.0)))
    assert whole == pytest.approx(2 * terms[0] + 3 * terms[1] + 5 * terms[2], rel=1e-5)
    direct = (one.size - other.size).square().mean()
    assert terms[1] == pytest.approx(float(direct), rel=1e-5)


# ---- ground truth -----------------------------------------------------------------


def test_the_loss_of_ground_truth_equals_that_of_a_loop():
    areas = random_areas(n=3, kinds=2, height=6, width=8)
    areas.heat.clamp_(0.05, 0.95)
    samples = [
        sample([[4.0, 4, 30, 20], [40, 8, 60, 47]], [0, 3]),
        sample([], []),
        sample([[0.0, 0, 64, 48]], [2]),
    ]
    got = ground_truth_loss(areas, samples, (48, 64))
    heat, size, offset = 0.0, 0.0, 0.0
    for n, one in enumerate(samples):
        target = torch.zeros(2, 6, 8)
        for box, label in zip(
            one.gt_instances.bboxes / 8, one.gt_instances.labels, strict=True
        ):
            w, h = (box[2:] - box[:2]).tolist()
            cx, cy = ((box[2:] + box[:2]) / 2).tolist()
            j, i = int(cx), int(cy)
            for y in range(6):
                for x in range(8):
                    bump = math.exp(
                        -((x - j) ** 2) / (2 * max(w / 6, 1 / 3) ** 2)
                        - (y - i) ** 2 / (2 * max(h / 6, 1 / 3) ** 2)
                    )
                    kind = int(label) % 2
                    target[kind, y, x] = max(target[kind, y, x], bump)
            size += float((areas.size[n, :, i, j] - torch.tensor([w, h])).abs().sum())
            wanted = torch.tensor([cx - j, cy - i])
            offset += float((areas.offset[n, :, i, j] - wanted).abs().sum())
        p = areas.heat[n]
        positive = target == 1
        heat -= float(((1 - p) ** 2 * p.log())[positive].sum())
        negative = (1 - target) ** 4 * p**2 * (1 - p).log()
        heat -= float(negative[~positive].sum())
    assert float(got) == pytest.approx((heat + 0.1 * size + offset) / 3, rel=1e-4)


def test_images_without_boxes_are_background():
    areas = random_areas(n=2)
    empty = [sample([], []), sample([], [])]
    loss = ground_truth_loss(areas, empty, (72, 104))
    assert loss.isfinite() and loss > 0


def test_the_loss_of_a_heatmap_equals_mmdetections():
    heat, target = torch.rand(2, 2, 3, 7, 5)
    target[0, 0, 1] = 1
    target[1, 2] = 0
    heat.requires_grad_()
    pair = (
        heatmap_loss(heat, target),
        gaussian_focal_loss(heat, target, reduction='sum'),
    )
    assert torch.equal(*pair)
    assert torch.equal(*(torch.autograd.grad(loss, heat)[0] for loss in pair))


def test_ground_truth_trains_the_heads_and_not_the_student():
    pair = make_pair()
    stage = ready(pair, supervision='gt', heatmaps=1)
    stage(pair).losses['area_boxes'].backward()
    assert all(s.grad is None for s in pair.student)
    assert all(p.grad is not None for p in stage.parameters())


def test_supervised_heads_find_the_boxes():
    torch.manual_seed(0)
    feature = torch.zeros(1, 4, 12, 12)
    feature[..., 3:6, 6:9] = 1.0  # the object, at stride 8
    samples = [sample([[48.0, 24, 72, 48]], [0])]
    pair = FeaturePair(
        link='x',
        student=[feature],
        teacher=[feature],
        samples=samples,
        image_size=(96, 96),
    )
    stage = ready(pair, supervision='gt', heatmaps=1, top_k=1)
    optimizer = torch.optim.Adam(stage.parameters(), lr=1e-2)
    for _ in range(300):
        pair.weight, pair.losses = [None], {}
        loss = stage(pair).losses['area_boxes']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    box = find_areas(stage.predict([feature])[0], 1)[0, 0]
    torch.testing.assert_close(box, torch.tensor([6.0, 3, 9, 6]), atol=0.5, rtol=0)


# ---- class activation maps --------------------------------------------------------


def cam_stage(classes=3, channels=4, **kwargs):
    teacher = torch.nn.ModuleDict(
        dict(head=torch.nn.ModuleDict(dict(fc=torch.nn.Linear(channels, classes))))
    )
    stage = DAM(supervision='cam', heatmaps=1, **kwargs)
    stage.connect(teacher)
    return stage, teacher['head']['fc']


def test_heads_learn_the_class_activation_map_of_the_label():
    """A direct reference in float64, and gradients in the heads alone."""
    torch.manual_seed(0)
    heat = torch.rand(2, 1, 5, 4, dtype=torch.float64, requires_grad=True)
    areas = Areas(heat, torch.rand(2, 2, 5, 4), torch.rand(2, 2, 5, 4))
    feature = torch.randn(2, 6, 5, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 6, dtype=torch.float64)
    loss = activation_loss(areas, feature, weights.float())
    total = 0.0
    for n in range(2):
        cam = sum(weights[n, c].float() * feature[n, c].float() for c in range(6))
        cam = cam.clamp(min=0)
        target = (cam / cam.max()).double()
        h = heat[n, 0]
        total = total - (target * h.log() + (1 - target) * (1 - h).log()).sum()
    torch.testing.assert_close(loss.double(), total / 40, rtol=1e-5, atol=1e-6)
    loss.backward()
    assert feature.grad is None and heat.grad.abs().sum() > 0


def test_cam_does_not_collapse_where_agreement_alone_does():
    """Heads that begin flat see the object again."""
    torch.manual_seed(0)
    stage, fc = cam_stage()
    samples = [DataSample().set_gt_label(i % 3) for i in range(6)]
    student = torch.randn(6, 4, 6, 6)
    teacher = torch.rand(6, 4, 6, 6)

    def pair():
        return FeaturePair(
            link='x',
            student=[student],
            teacher=[teacher],
            samples=samples,
            image_size=(48, 48),
        )

    stage.setup(pair())
    heads = next(iter(stage.heads.values()))
    torch.nn.init.zeros_(heads.heads[0].weight)
    assert stage(pair()).logs['heat_spread'] < 1e-6
    optimizer = torch.optim.Adam(stage.parameters(), lr=1e-2)
    for _ in range(60):
        done = stage(pair())
        optimizer.zero_grad()
        sum(done.losses.values()).backward()
        optimizer.step()
    assert done.logs['heat_spread'] > 0.05
    assert 'class_weight' not in stage.state_dict()
    torch.testing.assert_close(stage.class_weight, fc.weight.detach())
    fc.weight.data.add_(1)  # an average of the student's, or the student's own
    torch.testing.assert_close(stage.class_weight, fc.weight.detach())


def test_cam_is_refused_where_it_has_no_map():
    with pytest.raises(ConfigError, match=r"no linear layer 'head.fc'; .*head.cls"):
        DAM(supervision='cam').connect(
            torch.nn.ModuleDict(
                dict(head=torch.nn.ModuleDict(dict(cls=torch.nn.Linear(2, 2))))
            )
        )
    stage, _ = cam_stage(channels=8)
    pair = FeaturePair(
        link='x',
        student=[torch.randn(2, 4, 6, 6)],
        teacher=[torch.randn(2, 4, 6, 6)],
        samples=[],
        image_size=(48, 48),
    )
    with pytest.raises(ConfigError, match='of 8 channels, not one of 4'):
        stage.setup(pair)
