"""DAM: areas, masks, and what confines what."""

import logging
import math

import pytest
import torch
import toys
from helpers import blotchy_batches, build, detection_batch, distill_cfg, train_steps
from mmdet.models.losses.gaussian_focal_loss import gaussian_focal_loss
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from mmpretrain.structures import DataSample

from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair
from kd_mm.stages import DAM
from kd_mm.stages.sokd import dam as dam_module
from kd_mm.stages.sokd.areas import (
    Areas,
    activation_loss,
    area_mask,
    find_areas,
    ground_truth_loss,
    heatmap_loss,
)


def random_areas(n=3, kinds=2, height=9, width=13, *, big=6.0):
    heat = torch.rand(n, kinds, height, width)
    size = torch.rand(n, 2, height, width) * big
    return Areas(heat, size, torch.rand(n, 2, height, width))


def naive_areas(areas, top_k):
    """One image, map, row and column at a time."""
    n, kinds, height, width = areas.heat.shape
    out = []
    for image in range(n):
        peaks = []
        for kind in range(kinds):
            for i in range(height):
                for j in range(width):
                    value = areas.heat[image, kind, i, j]
                    near = areas.heat[
                        image, kind, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2
                    ]
                    if value == near.max():
                        peaks.append((float(value), i, j))
        boxes = []
        for _, i, j in sorted(peaks, reverse=True)[:top_k]:
            w, h = areas.size[image, :, i, j].tolist()
            dx, dy = areas.offset[image, :, i, j].tolist()
            x, y = j + dx, i + dy
            boxes.append(
                [
                    min(max(x - w / 2, 0), width),
                    min(max(y - h / 2, 0), height),
                    min(max(x + w / 2, 0), width),
                    min(max(y + h / 2, 0), height),
                ]
            )
        out.append(boxes)
    return out


def naive_mask(boxes, height, width, overlap, normalise):
    mask = torch.zeros(height, width)
    for x1, y1, x2, y2 in boxes:
        left, top = min(math.floor(x1), width - 1), min(math.floor(y1), height - 1)
        right, bottom = max(math.ceil(x2), left + 1), max(math.ceil(y2), top + 1)
        mask[top:bottom, left:right] += 1
    if overlap == 'max':
        mask = (mask > 0).float()
    return mask / mask.mean() if normalise == 'area' else mask


@pytest.mark.parametrize('top_k', [1, 8])
def test_areas_equal_those_of_a_loop(top_k):
    areas = random_areas()
    got = find_areas(areas, top_k)
    torch.testing.assert_close(got, torch.tensor(naive_areas(areas, top_k)))


@pytest.mark.parametrize('overlap', ['sum', 'max'])
@pytest.mark.parametrize('normalise', ['all', 'area'])
def test_masks_equal_those_of_a_loop(overlap, normalise):
    areas = random_areas()
    boxes = find_areas(areas, 8)
    got = area_mask(boxes, (9, 13), overlap=overlap, normalise=normalise)
    for image in range(3):
        expected = naive_mask(boxes[image].tolist(), 9, 13, overlap, normalise)
        torch.testing.assert_close(got[image, 0], expected)


def test_a_box_at_the_border_keeps_its_cell():
    # x1, y1, x2, y2: a point in the last corner, a point within, one over the edge
    boxes = torch.tensor([[[5.0, 4, 5, 4], [1.5, 1.5, 1.5, 1.5], [3.2, 0, 5, 1]]])
    mask = area_mask(boxes, (4, 5), overlap='sum', normalise='all')[0, 0]
    expected = torch.zeros(4, 5)
    expected[3, 4] = expected[1, 1] = 1
    expected[0, 3:] = 1
    assert torch.equal(mask, expected)


def test_no_areas_are_no_weight_and_no_nan():
    areas = random_areas()
    areas.heat.zero_()  # no peak is above 0
    boxes = find_areas(areas, 4)
    assert (boxes < 0).all()
    for normalise in ('all', 'area'):
        mask = area_mask(boxes, (9, 13), overlap='sum', normalise=normalise)
        assert (mask == 0).all()


def test_more_areas_than_positions_are_cut():
    areas = random_areas(kinds=2, height=1, width=2)
    boxes = find_areas(areas, 8)
    assert boxes.shape == (3, 4, 4)
    peaks = [len(image) for image in naive_areas(areas, 8)]
    assert (boxes[..., 0] >= 0).sum(1).tolist() == peaks


def sample(boxes, labels):
    out = DetDataSample()
    out.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes).view(-1, 4), labels=torch.tensor(labels).long()
    )
    return out


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


# ---- as a stage ---------------------------------------------------------------


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


@pytest.mark.parametrize('side', ['student', 'teacher', 'both'])
def test_the_weight_map_comes_from_the_side_asked_for(side):
    pair = make_pair()
    stage = ready(pair, boxes_from=side, top_k=3)
    student, teacher = stage.predict(pair.student), stage.predict(pair.teacher)
    sides = dict(student=[student], teacher=[teacher], both=[student, teacher])[side]
    weight = stage(pair).weight
    for level, got in enumerate(weight):
        size = got.shape[2:]
        expected = sum(
            area_mask(find_areas(areas[level], 3), size, overlap='sum', normalise='all')
            for areas in sides
        )
        assert torch.equal(got, expected) and not got.requires_grad


def test_both_sides_go_through_the_same_heads():
    pair = make_pair()
    stage = ready(pair)
    pair.teacher = [feature.detach().clone() for feature in pair.student]
    assert float(stage(pair).losses['areas']) == 0.0


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


def test_relu_heads_keep_heat_above_one_half():
    pair = make_pair()
    free, bound = ready(pair), ready(pair, relu_heads=True)
    assert float(bound.predict(pair.teacher)[0].heat.min()) >= 0.5
    assert float(free.predict(pair.teacher)[0].heat.min()) < 0.5


def test_levels_of_one_width_share_their_heads():
    assert len(ready(make_pair()).heads) == 1
    pair = make_pair()
    pair.student[1], pair.teacher[1] = torch.randn(2, 2, 4, 5, 7)
    assert set(ready(pair).heads) == {'6', '4'}


@pytest.mark.parametrize(
    ('student', 'teacher', 'message'),
    [
        ((2, 8), (2, 8), 'only DAFA'),
        ((2, 9, 8), (2, 9, 8), 'only DAFA'),
        ((2, 8, 4, 4), (2, 12, 4, 4), 'ConvAdapter'),
        ((2, 8, 4, 4), (2, 8, 8, 8), 'Resize'),
    ],
)
def test_what_has_no_common_areas_is_refused(student, teacher, message):
    pair = FeaturePair(
        link='x',
        student=[torch.randn(student)],
        teacher=[torch.randn(teacher)],
        samples=[],
        image_size=(8, 8),
    )
    with pytest.raises(ConfigError, match=message):
        DAM().setup(pair)


@pytest.mark.parametrize(
    'wrong',
    [
        dict(boxes_from='anchors'),
        dict(overlap='mean'),
        dict(normalise='none'),
        dict(supervision='boxes'),
        dict(top_k=0),
        dict(heatmaps=0),
        dict(hidden=0),
        dict(weight=-1),
    ],
)
def test_senseless_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=f'DAM.{next(iter(wrong))}'):
        DAM(**wrong)


def links(criterion='kd_mm.MSELoss', **dam) -> dict:
    return dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            stages=[dict(type='kd_mm.DAM', **dam)],
            criterion=dict(type=criterion),
        )
    )


def test_a_detector_trains_and_logs_area_and_spread():
    model = build(
        distill_cfg(toys.retinanet(), toys.retinanet(), links(supervision='gt'))
    )
    logs = train_steps(model, blotchy_batches(1)[0], 4, lr=0.05)
    assert logs[-1]['loss_kd_fpn_area_boxes'] < logs[0]['loss_kd_fpn_area_boxes']
    assert 0 < logs[-1]['kd_fpn_area'] <= 1 and logs[-1]['kd_fpn_heat_spread'] > 0


def test_two_stages_that_weight_positions_are_refused():
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(), links())
    cfg['links']['fpn']['stages'] *= 2
    with pytest.raises(ConfigError, match='weighted the positions already'):
        build(cfg)


def test_logits_have_no_areas():
    link = dict(
        student='head',
        teacher='head',
        stages=[dict(type='kd_mm.DAM')],
        criterion=dict(type='kd_mm.KDLoss'),
    )
    cfg = distill_cfg(toys.classifier(), toys.classifier(base=16), dict(logits=link))
    with pytest.raises(ConfigError, match='links.logits.*only DAFA'):
        build(cfg)


def test_heads_that_have_collapsed_are_reported(monkeypatch, caplog):
    monkeypatch.setattr(dam_module, 'PATIENCE', 2)
    model = build(distill_cfg(toys.retinanet(), toys.retinanet(), links()))
    stage = model.distiller.links['fpn'].stages[0]
    warnings = []
    logger = dam_module.MMLogger.get_current_instance()
    handler = logging.Handler()

    def keep(record):
        if 'links.fpn' in record.getMessage():
            warnings.append(record.getMessage())

    handler.emit = keep
    logger.addHandler(handler)
    try:
        train_steps(model, detection_batch(), 2, lr=0.0)
        stage.after_train_iter(None)
        assert warnings == []
        for heads in stage.heads.values():
            torch.nn.init.zeros_(heads.heads[0].weight)
        train_steps(model, detection_batch(), 2, lr=0.0)
        stage.after_train_iter(None)
    finally:
        logger.removeHandler(handler)
    assert len(warnings) == 1 and 'links.fpn: the heads of DAM' in warnings[0]


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


def test_each_head_has_its_weight():
    torch.manual_seed(0)
    one, other = random_areas(), random_areas()
    chosen = torch.eye(3).tolist()
    terms = [float(one.difference(other, weights)) for weights in chosen]
    whole = float(one.difference(other, (2.0, 3.0, 5.0)))
    assert whole == pytest.approx(2 * terms[0] + 3 * terms[1] + 5 * terms[2], rel=1e-5)
    direct = (one.size - other.size).square().mean()
    assert terms[1] == pytest.approx(float(direct), rel=1e-5)
