"""DKD, DIST and SP against direct formulas in float64."""

import math

import pytest
import torch
import toys
from helpers import build, classification_batch, distill_cfg, train_steps
from mmpretrain.structures import DataSample
from torch.autograd import gradcheck

from kd_mm.criteria import (
    DISTLoss,
    DKDLoss,
    KDLoss,
    SPLoss,
    dist_loss,
    dkd_loss,
    kd_loss,
    similarity_loss,
    z_scores,
)
from kd_mm.criteria.dkd import targets
from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair

N, K = 5, 7


def logits(count=2, **kwargs):
    return [torch.randn(N, K, dtype=torch.float64, **kwargs) for _ in range(count)]


def softmax(row, tau):
    exps = [math.exp(float(v) / tau) for v in row]
    return [e / sum(exps) for e in exps]


def test_dkd_equals_a_loop():
    s, t = logits()
    target, total = torch.randint(0, K, (N,)), 0.0
    for n in range(N):
        p, q, y = softmax(s[n], 3.0), softmax(t[n], 3.0), int(target[n])
        total += 1.5 * q[y] * math.log(q[y] / p[y])
        total += 1.5 * (1 - q[y]) * math.log((1 - q[y]) / (1 - p[y]))
        for k in range(K):
            if k != y:
                a, b = q[k] / (1 - q[y]), p[k] / (1 - p[y])
                total += 4.0 * a * math.log(a / b)
    got = dkd_loss(s, t, target, alpha=1.5, beta=4.0, tau=3.0)
    assert float(got) == pytest.approx(9 * total / N, rel=1e-9)


def test_dkd_with_its_classical_weights_is_kd():
    """Equation 5 of the paper: KD = TCKD + (1 - p_target) NCKD, image by image."""
    s, t = (x[:1] for x in logits())
    target = torch.tensor([2])
    rest = 1 - float((t / 4.0).softmax(1)[0, 2])
    got = dkd_loss(s, t, target, alpha=1.0, beta=rest, tau=4.0)
    torch.testing.assert_close(got, kd_loss(s, t, tau=4.0))


def test_dist_equals_a_loop():
    s, t = logits()
    p = torch.tensor([softmax(row, 2.0) for row in s], dtype=torch.float64)
    q = torch.tensor([softmax(row, 2.0) for row in t], dtype=torch.float64)

    def distance(rows_p, rows_q):
        pairs = zip(rows_p, rows_q, strict=True)
        return 1 - sum(
            float(torch.corrcoef(torch.stack([a, b]))[0, 1]) for a, b in pairs
        ) / len(rows_p)

    expected = 4 * (1.5 * distance(p, q) + 0.5 * distance(p.T, q.T))
    got = dist_loss(s, t, tau=2.0, inter=1.5, intra=0.5)
    assert float(got) == pytest.approx(expected, rel=1e-9)


def test_dist_does_not_see_scale_and_shift_of_probabilities_but_kd_does():
    s = torch.randn(N, K, dtype=torch.float64)
    assert float(dist_loss(s, s)) == pytest.approx(0, abs=1e-7)
    # squeezed to the uniform distribution: the same relations
    squeezed = (0.3 * s.softmax(1) + 0.7 / K).log()
    assert float(dist_loss(squeezed, s)) == pytest.approx(0, abs=1e-7)
    assert float(kd_loss(squeezed, s)) > 0.01


def test_sp_equals_a_loop_and_takes_any_widths():
    s = torch.randn(N, 3, 2, 2, dtype=torch.float64)
    t = torch.randn(N, 6, 4, 1, dtype=torch.float64)
    total, grams = 0.0, []
    for feature in (s, t):
        rows = []
        for i in range(N):
            row = torch.stack([(feature[i] * feature[j]).sum() for j in range(N)])
            rows.append(row / row.square().sum().sqrt())
        grams.append(rows)
    for i in range(N):
        total += float((grams[0][i] - grams[1][i]).square().sum())
    got = similarity_loss(s, t)
    assert float(got) == pytest.approx(total / N**2, rel=1e-9)
    shuffled = t[:, torch.randperm(6)]
    torch.testing.assert_close(similarity_loss(s, shuffled), got)


@pytest.mark.parametrize(
    'loss',
    [
        lambda s, t: dkd_loss(s, t, torch.arange(N)),
        dist_loss,
        similarity_loss,
    ],
    ids=['dkd', 'dist', 'sp'],
)
def test_gradients(loss):
    s, t = logits(requires_grad=True)
    assert gradcheck(lambda x: loss(x, t.detach()), (s,), atol=1e-6)


def z_scores_by_hand(row):
    mean = math.fsum(row) / len(row)
    variance = math.fsum((v - mean) ** 2 for v in row) / (len(row) - 1)
    return torch.tensor([(v - mean) / math.sqrt(variance) for v in row]).double()


@pytest.mark.parametrize('kind', ['KDLoss', 'DKDLoss'])
def test_standardised_logits_equal_a_loop(kind):
    s, t = logits()
    target, total = [n % K for n in range(N)], 0.0
    for n in range(N):
        one, other = (z_scores_by_hand(x[n].tolist()) for x in (s, t))
        p, q, y = softmax(one, 2.0), softmax(other, 2.0), target[n]
        if kind == 'KDLoss':
            total += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
            continue
        total += q[y] * math.log(q[y] / p[y])
        total += (1 - q[y]) * math.log((1 - q[y]) / (1 - p[y]))
        for a, b in ((p[k], q[k]) for k in range(K) if k != y):
            a, b = a / (1 - p[y]), b / (1 - q[y])
            total += 8.0 * b * math.log(b / a)
    criterion = dict(KDLoss=KDLoss, DKDLoss=DKDLoss)[kind](tau=2.0, standardise=True)
    samples = [DataSample().set_gt_label(y) for y in target]
    got = criterion(FeaturePair('x', [s], [t], samples, (8, 8)))
    assert float(got) == pytest.approx(4 * total / N, rel=1e-5)


def test_standardised_logits_do_not_see_scale_and_shift():
    s, t = logits()
    criterion = KDLoss(tau=2.0, standardise=True)
    pairs = [
        FeaturePair('x', [a], [b], [], (8, 8))
        for a, b in ((s, t), (5 * s + 3, t), (s, 0.2 * t - 7))
    ]
    one, *others = (float(criterion(pair)) for pair in pairs)
    assert others == pytest.approx([one, one], rel=1e-4)


def test_equal_logits_are_standardised_with_a_finite_gradient():
    s, t = torch.zeros(2, K, requires_grad=True), torch.randn(2, K)
    kd_loss(z_scores(s), z_scores(t)).backward()
    assert s.grad.isfinite().all() and float(s.grad.abs().max()) > 0
    x = torch.randn(N, K, dtype=torch.float64, requires_grad=True)
    assert gradcheck(z_scores, (x,), atol=1e-6)


def test_extreme_logits_stay_finite():
    s = torch.tensor([[80.0, -80.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    t = torch.tensor([[-80.0, 80.0, 0.0], [90.0, 0.0, 0.0]])
    for loss in (
        dkd_loss(s, t, torch.tensor([0, 0]), tau=1.0),
        dist_loss(s, t),
        similarity_loss(s, t),
    ):
        (gradient,) = torch.autograd.grad(loss, s)
        assert loss.isfinite() and gradient.isfinite().all()


def test_classes_come_from_the_samples():
    plain = DataSample().set_gt_label(3)
    mixed = DataSample().set_gt_score(torch.tensor([0.3, 0.0, 0.7, 0.0]))
    assert targets([plain, mixed], torch.device('cpu')).tolist() == [3, 2]


@pytest.mark.parametrize('kind', ['DKDLoss', 'DISTLoss', 'SPLoss'])
def test_teaches_a_classifier(kind):
    link = dict(student='head', teacher='head', criterion=dict(type=f'kd_mm.{kind}'))
    model = build(
        distill_cfg(toys.classifier(), toys.classifier(base=16), dict(logits=link))
    )
    logs = train_steps(model, classification_batch(8), 10, lr=0.02)
    losses = [log['loss_kd_logits'] for log in logs]
    assert losses[0] > 0 and min(losses[1:]) < losses[0]


def pair(shape):
    feature = torch.randn(shape)
    return FeaturePair(
        link='x', student=[feature], teacher=[feature], samples=[], image_size=(8, 8)
    )


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: DKDLoss(tau=0), 'DKDLoss.tau: .*> 0'),
        (lambda: DISTLoss(inter=-1), 'DISTLoss.inter: .*>= 0'),
        (lambda: KDLoss(sigmoid=True, standardise=True), 'one of both'),
        (lambda: KDLoss(standardise=True)(pair((4, 1))), 'two classes'),
        (lambda: KDLoss().setup(pair((4, 1))), 'classes of a softmax.*sigmoid=True'),
        (lambda: DKDLoss().setup(pair((4, 1))), 'DKDLoss.*there is one'),
        (lambda: DISTLoss().setup(pair((4, 1))), 'DISTLoss.*there is one'),
        (lambda: DKDLoss()(pair((2, 3, 4, 4))), 'logits'),
        (lambda: DISTLoss()(pair((2, 3, 4, 4))), 'logits'),
        (lambda: SPLoss()(pair((1, 3))), 'needs two'),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
