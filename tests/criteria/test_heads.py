"""What dense heads say: class scores, boxes, bins, against direct formulas."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torchvision.ops import generalized_box_iou_loss

from kd_mm.criteria import (
    BoxLoss,
    HeadLoss,
    LDLoss,
    QFLLoss,
    box_terms,
    kd_loss,
    ld_terms,
    qfl_terms,
)
from kd_mm.criteria.box_coding import decode
from kd_mm.criteria.boxes import giou_loss
from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair

N, K, BINS, SIZES = 2, 3, 5, ((4, 5), (2, 3))


def maps(channels, sizes=SIZES):
    return [torch.randn(N, channels, *size, dtype=torch.float64) for size in sizes]


def pair(student, teacher, weight=()) -> FeaturePair:
    sides = dict(student=student, teacher=teacher, weight=list(weight))
    return FeaturePair(link='x', samples=[], image_size=(64, 64), **sides)


def sigmoid(x):
    return 1 / (1 + math.exp(-float(x)))


def softmax(row, tau=1.0):
    exps = [math.exp(float(v) / tau) for v in row]
    return [e / sum(exps) for e in exps]


def test_the_focal_factor_has_a_slope_where_both_say_the_same():
    student = torch.tensor([20.0, 1.0, -1.0], requires_grad=True)
    qfl_terms(student, torch.tensor([21.0, 1.0, 0.0]), beta=0.5).sum().backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize('apart', [0.0, 0.3, 5.0])
def test_giou_equals_torchvisions(apart):
    corners = torch.rand(2, 3, 5, 6, 7, 4, dtype=torch.float64) + 0.1
    one, two = corners.cumsum(-1)[..., [0, 1, 2, 3]]
    two = two + apart
    for side in (one, two):
        side[..., 2:] = side[..., :2] + corners[0, ..., 2:]
    got, expected = [], []
    for boxes, loss in ((got, giou_loss), (expected, generalized_box_iou_loss)):
        student = one.clone().requires_grad_()
        value = loss(student, two)
        value.sum().backward()
        boxes += [value, student.grad]
    torch.testing.assert_close(got, expected)


def test_qfl_equals_a_loop():
    s, t = maps(K, SIZES[:1]), maps(K, SIZES[:1])
    got = qfl_terms(s[0], t[0], beta=1.5)
    for place in [(0, 0, 0, 0), (1, 2, 3, 4)]:
        p, q = sigmoid(s[0][place]), sigmoid(t[0][place])
        entropy = -q * math.log(p) - (1 - q) * math.log(1 - p)
        assert float(got[place]) == pytest.approx(abs(p - q) ** 1.5 * entropy)
    assert qfl_terms(t[0], t[0]).abs().max() == 0


def test_ld_is_kd_over_the_bins_of_every_side_and_zero_for_equal_heads():
    s, t = maps(8 * BINS, SIZES[:1]), maps(8 * BINS, SIZES[:1])  # two anchors
    got = ld_terms(s[0], t[0], tau=10.0, bins=BINS)
    assert got.shape == (N, 2, *SIZES[0])
    rows = [x[0].movedim(1, -1).reshape(-1, BINS) for x in (s, t)]
    torch.testing.assert_close(got.mean(), kd_loss(*rows, tau=10.0))
    torch.testing.assert_close(
        ld_terms(t[0] + 7, t[0], bins=BINS), torch.zeros_like(got)
    )
    side = slice(BINS, 2 * BINS)  # anchor 0, top
    p, q = (softmax(x[0][1, side, 2, 3], 10.0) for x in (s, t))
    expected = 100 * sum(b * math.log(b / a) for a, b in zip(p, q))
    one = ld_terms(s[0][:, side].repeat(1, 4, 1, 1), t[0][:, side].repeat(1, 4, 1, 1))
    assert float(one[1, 0, 2, 3]) == pytest.approx(expected)


@pytest.mark.parametrize('form', ['deltas', 'distances', 'log_distances', 'bins'])
def test_boxes_equal_what_mmdetection_decodes(form):
    """1 - GIoU of boxes that the toolbox's coder decodes from one anchor."""
    from mmdet.models.losses.iou_loss import giou_loss
    from mmdet.models.task_modules import DeltaXYWHBBoxCoder, DistancePointBBoxCoder

    bins = BINS if form == 'bins' else 1
    stds = (0.1, 0.1, 0.2, 0.2) if form == 'deltas' else (1.0,) * 4
    s, t = (maps(4 * bins, SIZES[:1])[0] for _ in range(2))
    if form == 'distances':
        s, t = s.abs(), t.abs()
    rows = [x.movedim(1, -1).reshape(-1, 4 * bins) for x in (s, t)]
    if form == 'bins':
        steps = torch.arange(BINS, dtype=torch.float64)
        rows = [x.reshape(-1, 4, BINS).softmax(-1) @ steps for x in rows]
    rows = [x.exp() for x in rows] if form == 'log_distances' else rows
    if form == 'deltas':
        anchor = torch.tensor([[3.0, 5.0, 27.0, 41.0]], dtype=torch.float64)
        coder = DeltaXYWHBBoxCoder(target_stds=stds)
    else:
        anchor = torch.tensor([[9.0, 13.0]], dtype=torch.float64)
        coder = DistancePointBBoxCoder()
    boxes = [coder.decode(anchor.expand(len(x), -1), x) for x in rows]
    expected = giou_loss(*boxes, reduction='none').reshape(N, 1, *SIZES[0])
    got = box_terms(s, t, form, stds=stds, bins=bins)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    equal = box_terms(t, t, form, stds=stds, bins=bins)
    torch.testing.assert_close(equal, 0 * got, atol=1e-5, rtol=0)


def test_terms_have_the_right_gradient():
    s, t = (maps(4 * BINS, ((2, 2),))[0] for _ in range(2))
    s.requires_grad_()
    assert gradcheck(lambda s: qfl_terms(s, t, beta=2.0), (s,))
    assert gradcheck(lambda s: ld_terms(s, t), (s,))
    assert gradcheck(lambda s: box_terms(s, t, 'bins', bins=BINS), (s,))
    assert gradcheck(lambda s: decode(s[:, :4], 'deltas', stds=(0.1,) * 4), (s,))


def test_a_head_is_weighted_by_the_teachers_confidence_as_published():
    """GFL in CrossKD: sums over all levels, divided by the sum of confidences."""
    sides = [[*maps(K), *maps(4 * BINS), *maps(1)] for _ in range(2)]
    criterion = HeadLoss(
        classes=dict(type='kd_mm.QFLLoss', weight=0.5),
        boxes=dict(type='kd_mm.LDLoss', tau=1.0, weight=4.0),
        centres=dict(type='kd_mm.QFLLoss', weight=3.0),
    )
    total = certain = 0.0
    for level in range(2):
        (s, t), (sb, tb), (sc, tc) = (
            [side[i + level].float() for side in sides] for i in (0, 2, 4)
        )
        c = t.max(1).values.sigmoid()
        certain += float(c.sum())
        total += 0.5 * float(qfl_terms(s, t).sum())
        total += 4.0 * float((c * ld_terms(sb, tb, tau=1.0)[:, 0]).sum())
        total += 3.0 * float((c * qfl_terms(sc, tc)[:, 0]).sum())
    p = pair(*sides)
    assert float(criterion(p)) == pytest.approx(total / certain, rel=1e-5)
    assert sum(map(float, p.logs.values())) == pytest.approx(total / certain, rel=1e-5)
    assert set(p.logs) == {'classes', 'boxes', 'centres'}
    assert float(criterion(pair(sides[1], sides[1]))) == pytest.approx(0, abs=1e-6)


def test_confidence_belongs_to_its_anchor():
    """Two anchors a position, as the toolbox lays out channels: anchor by anchor."""
    classes, boxes = maps(2 * K, SIZES[:1]), maps(8, SIZES[:1])
    classes[0][:] = -9.0
    classes[0][:, K + 1] = 9.0  # the second anchor is certain
    student = boxes[0].clone()
    student[:, :4] += 1.0  # the first one differs
    criterion = HeadLoss(boxes=dict(type='kd_mm.BoxLoss', form='deltas'))
    wrong = criterion(pair([classes[0], student], [classes[0], boxes[0]]))
    assert float(wrong) < 1e-3
    student[:, 4:] += 1.0
    assert float(criterion(pair([classes[0], student], [classes[0], boxes[0]]))) > 0.1


def test_a_weight_map_chooses_positions():
    s, t = maps(4 * BINS), maps(4 * BINS)
    weight = [torch.zeros(N, 1, *size) for size in SIZES]
    weight[1][:, :, 0, 0] = 2.0
    got = LDLoss()(pair(s, t, weight))
    here = ld_terms(s[1].float(), t[1].float())[:, 0, 0, 0]
    torch.testing.assert_close(got, here.mean())
    assert float(LDLoss()(pair(s, t, [0 * w for w in weight]))) == 0


@pytest.mark.parametrize(
    ('make', 'says'),
    [
        (lambda: BoxLoss(form='bins'), 'BoxLoss.bins is 1'),
        (lambda: BoxLoss(form='deltas', bins=3), 'BoxLoss.bins is 3'),
        (lambda: BoxLoss(form='distances', stds=[0.1] * 4), 'stds belong to deltas'),
        (lambda: HeadLoss(boxes=dict(type='kd_mm.MSELoss')), 'MSELoss does not'),
        (lambda: LDLoss()(pair(maps(4), maps(4))), 'take BoxLoss'),
        (lambda: QFLLoss()(pair(maps(3), maps(4))), 'score other classes'),
        (
            lambda: BoxLoss(form='deltas')(pair(maps(6), maps(6))),
            'no boxes of 4 numbers',
        ),
        (
            lambda: HeadLoss(boxes=dict(type='kd_mm.LDLoss'))(
                pair(*[[*maps(K), *maps(20), *maps(1)[:1]]] * 2)
            ),
            'classes, boxes, of as many levels',
        ),
    ],
)
def test_what_does_not_fit_is_said(make, says):
    with pytest.raises(ConfigError, match=says):
        make()
