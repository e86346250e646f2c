"""Queries of two DETRs, matched by what they say."""

import copy

import pytest
import query_toys
import torch
from helpers import build, detection_batch, distill_cfg, losses_of, train_steps
from scipy.optimize import linear_sum_assignment

from kd_mm.criteria import HeadLoss
from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair
from kd_mm.stages import MatchQueries
from kd_mm.stages.match_queries import assign, log_odds, query_costs
from kd_mm.trial import trial_samples

LAYERS, N, Q, K = 2, 3, 9, 4
BOXES = [
    dict(type='kd_mm.BoxL1Loss', weight=5.0),
    dict(type='kd_mm.BoxLoss', form='cxcywh', weight=2.0),
]


def said(queries: int = Q, seed: int = 0, layers: int = LAYERS) -> list[torch.Tensor]:
    """Classes and boxes of a decoder."""
    torch.manual_seed(seed)
    centres = 0.2 + 0.6 * torch.rand(layers, N, queries, 2)
    sizes = 0.05 + 0.3 * torch.rand(layers, N, queries, 2)
    return [
        2 * torch.randn(layers, N, queries, K),
        torch.cat([centres, sizes], -1),
    ]


def loss(student, teacher, **options) -> torch.Tensor:
    stage = MatchQueries(**options)
    pair = FeaturePair(
        link='x',
        student=list(student),
        teacher=list(teacher),
        samples=trial_samples(N, (64, 64)),
        image_size=(64, 64),
    )
    stage.setup(pair)
    criterion = HeadLoss(classes=dict(type='kd_mm.QFLLoss'), boxes=BOXES)
    return criterion(stage(pair))


def link(**options) -> dict:
    return dict(
        queries=dict(
            student='bbox_head',
            teacher='bbox_head',
            stages=[dict(type='kd_mm.MatchQueries', threshold=0.0, **options)],
            criterion=dict(
                type='kd_mm.HeadLoss', classes=dict(type='kd_mm.QFLLoss'), boxes=BOXES
            ),
        )
    )


@pytest.mark.parametrize('softmax', [False, True])
def test_the_order_of_queries_says_nothing_and_equal_networks_agree(softmax):
    student, teacher = said(), said(7, seed=1)
    options = dict(top_k=5, threshold=0.0, softmax=softmax)
    there = loss(student, teacher, **options)
    order, mine = torch.randperm(7), torch.randperm(Q)
    moved = [side[:, :, order] for side in teacher]
    torch.testing.assert_close(loss(student, moved, **options), there)
    own = [side[:, :, mine] for side in student]
    torch.testing.assert_close(loss(own, moved, **options), there)
    assert float(there) > 0.5
    same = loss(own, student, **options)
    assert float(same) == pytest.approx(0, abs=1e-5)


def test_every_target_has_a_query_of_its_own_and_the_sum_is_the_least():
    student, teacher = said(), said(5, seed=1)
    flat = [
        (classes.flatten(0, 1).sigmoid(), boxes.flatten(0, 1))
        for classes, boxes in (student, teacher)
    ]
    costs = query_costs(*flat)
    assert costs.shape == (LAYERS * N, 5, Q)
    p, q = flat[0][0][4, 3], flat[1][0][4, 2]
    by_hand = 2.0 * float((p - q).abs().sum())
    a, b = flat[0][1][4, 3], flat[1][1][4, 2]
    by_hand += 5.0 * float((a - b).abs().sum())
    low = [(x[:2] - x[2:] / 2).tolist() for x in (a, b)]
    high = [(x[:2] + x[2:] / 2).tolist() for x in (a, b)]
    inner = [max(0, min(h) - max(m)) for m, h in zip(zip(*low), zip(*high))]
    outer = [max(h) - min(m) for m, h in zip(zip(*low), zip(*high))]
    common, hull = inner[0] * inner[1], outer[0] * outer[1]
    union = float(a[2] * a[3] + b[2] * b[3]) - common
    by_hand += 2.0 * (1 - common / union + (hull - union) / hull)
    assert float(costs[4, 2, 3]) == pytest.approx(by_hand, rel=1e-4)
    found = assign(costs)
    for row, cost in zip(found, costs):
        assert len(set(row.tolist())) == 5
        best = cost.numpy()[linear_sum_assignment(cost.numpy())].sum()
        assert float(cost[range(5), row].sum()) == pytest.approx(float(best))


def test_unsure_queries_are_no_targets():
    """Moving what the teacher is not sure of changes nothing."""
    student, teacher = said(), said(seed=1)
    teacher[0][:] = -5.0
    teacher[0][:, :, :2, 1] = 3.0
    there = loss(student, teacher, threshold=0.5, top_k=6)
    other = [side.clone() for side in teacher]
    other[1][:, :, 2:] = 0.5
    torch.testing.assert_close(loss(student, other, threshold=0.5, top_k=6), there)
    other[1][:, :, 0] += 0.1
    assert not torch.equal(loss(student, other, threshold=0.5, top_k=6), there)
    assert float(loss(student, teacher, threshold=0.99)) == 0


def test_softmax_scores_become_sigmoids():
    logits = 20 * torch.randn(5, K + 1, dtype=torch.float64)
    expected = logits.softmax(-1)[:, :-1]
    torch.testing.assert_close(log_odds(logits).sigmoid(), expected)
    student = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_odds, (student,))
    sure = torch.tensor([[60.0, -60.0, 0.0], [0.0, 0.0, 60.0]])  # p is 0 or 1 in fp32
    exact = torch.tensor([[60.0, -120.0], [-60.0, -60.0]])
    torch.testing.assert_close(log_odds(sure), exact)


def test_other_numbers_of_layers_meet_in_the_teachers_last():
    student, teacher = said(), said(seed=1, layers=3)
    last = [side[-1:].repeat(LAYERS, 1, 1, 1) for side in teacher]
    options = dict(threshold=0.0, top_k=4)
    torch.testing.assert_close(
        loss(student, teacher, **options), loss(student, last, **options)
    )


@pytest.mark.parametrize('kind', ['detr', 'deformable_detr', 'dino'])
def test_queries_of_real_decoders_teach(kind):
    """DETR predicts with its last layer alone, DINO has more queries in training."""
    student, teacher = (getattr(query_toys, kind)() for _ in range(2))
    teacher.num_queries = 15
    model = build(distill_cfg(student, teacher, link(softmax=kind == 'detr')))
    stage = model.distiller.links['queries'].stages[0]
    assert stage.queries == student.num_queries
    assert all(
        'loss_kd_queries' in log for log in train_steps(model, detection_batch())
    )
    model.zero_grad()
    losses = losses_of(model, detection_batch())
    assert losses['loss_kd_queries'] > 0 and losses['kd_queries_targets'] > 5
    losses['loss_kd_queries'].backward()
    assert (
        model.bbox_head.cls_branches[0].weight.grad.abs().sum() > 0
        if (kind != 'detr')
        else model.bbox_head.fc_cls.weight.grad.abs().sum() > 0
    )
    if kind == 'dino':
        # what the denoising queries say does not matter
        unused = model.dn_query_generator.label_embedding.weight.grad
        assert unused is None or not unused.any()
        assert model.query_embedding.weight.grad.abs().sum() > 0


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    net = query_toys.deformable_detr()
    model = build(distill_cfg(net, net, link(top_k=6)))
    state = {
        k: v for k, v in model.state_dict().items() if not k.startswith('distiller.')
    }
    model.distiller.teacher.model.load_state_dict(copy.deepcopy(state))
    model.eval()  # the student's BN as the teacher's
    model.training = True
    losses = losses_of(model, detection_batch())
    assert float(losses['loss_kd_queries']) == pytest.approx(0, abs=1e-4)


def test_what_is_no_decoder_is_refused():
    net = query_toys.deformable_detr()
    wrong = link()
    wrong['queries'].update(student='bbox_head[0]', teacher='bbox_head[0]')
    with pytest.raises(ConfigError, match='tap the head of a DETR'):
        build(distill_cfg(net, net, wrong))
    unmatched = link()
    unmatched['queries']['stages'] = []
    with pytest.raises(ConfigError, match='first axis is not the images'):
        build(distill_cfg(net, net, unmatched))
    with pytest.raises(ConfigError, match='scores 4 classes and the teacher 3'):
        build(distill_cfg(net, query_toys.deformable_detr(classes=3), link()))
    padded = query_toys.deformable_detr()
    padded.data_preprocessor.pad_size_divisor = 256
    with pytest.raises(ConfigError, match='give both the same pad_size_divisor'):
        build(distill_cfg(net, padded, link()))
