"""Criteria against direct formulas in float64, on fresh random inputs."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from kd_mm.criteria import (
    ATLoss,
    CWDLoss,
    KDLoss,
    MSELoss,
    PatchSimilarityLoss,
    PKDLoss,
    attention_loss,
    binary_kd_loss,
    cosine_loss,
    cwd_loss,
    kd_loss,
    mse_loss,
    patch_similarity_loss,
    pkd_loss,
)
from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair

N, C, H, W = 2, 3, 4, 5


def maps(count: int = 2, **kwargs) -> list[torch.Tensor]:
    return [
        torch.randn(N, C, H, W, dtype=torch.float64, **kwargs) for _ in range(count)
    ]


def pair(student, teacher, weight=None) -> FeaturePair:
    student, teacher = ([x] if torch.is_tensor(x) else x for x in (student, teacher))
    return FeaturePair(
        link='x',
        student=student,
        teacher=teacher,
        samples=[],
        image_size=(32, 40),
        weight=[weight] * len(student),
    )


def mse_reference(s, t, w):
    total = 0.0
    for n in range(N):
        for c in range(C):
            for y in range(H):
                for x in range(W):
                    total += w[n, 0, y, x] * (s[n, c, y, x] - t[n, c, y, x]) ** 2
    return total / (N * C * H * W)


def attention_reference(s, t, w):
    total = 0.0
    for n in range(N):
        maps = []
        for f in (s, t):
            q = (f[n] ** 2).mean(0)
            maps.append(q / q.square().sum().sqrt())
        total += (w[n, 0] * (maps[0] - maps[1]) ** 2).sum()
    return total / (N * H * W)


def cwd_reference(s, t, w, tau=2.0):
    total = 0.0
    for n in range(N):
        for c in range(C):
            p = (t[n, c] / tau).exp() / (t[n, c] / tau).exp().sum()
            q = (s[n, c] / tau).exp() / (s[n, c] / tau).exp().sum()
            total += (w[n, 0] * (p * (p / q).log() - p + q)).sum()
    return tau**2 * total / (N * C)


def pkd_reference(s, t, w):
    total = 0.0
    for c in range(C):
        z = []
        for f in (s, t):
            v = f[:, c]
            variance = ((v - v.mean()) ** 2).mean()
            z.append((v - v.mean()) / torch.sqrt(variance + 1e-6))
        total += (w[:, 0] * (z[0] - z[1]) ** 2).sum()
    return total / (2 * N * C * H * W)


def cosine_reference(s, t, w):
    total = 0.0
    for n in range(N):
        for y in range(H):
            for x in range(W):
                a, b = s[n, :, y, x], t[n, :, y, x]
                total += w[n, 0, y, x] * (1 - a @ b / (a.norm() * b.norm()))
    return total / (N * H * W)


def binary_kd_reference(s, t, w, tau=2.0):
    p, q = 1 / (1 + (-t / tau).exp()), 1 / (1 + (-s / tau).exp())
    kl = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    return tau**2 * (w * kl).mean()


SPATIAL = {
    'mse': (mse_loss, mse_reference, {}),
    'attention': (attention_loss, attention_reference, {}),
    'cwd': (cwd_loss, cwd_reference, dict(tau=2.0)),
    'pkd': (pkd_loss, pkd_reference, {}),
    'cosine': (cosine_loss, cosine_reference, {}),
    'binary_kd': (binary_kd_loss, binary_kd_reference, dict(tau=2.0)),
}
spatial = pytest.mark.parametrize('name', SPATIAL)


@spatial
def test_equals_the_formula(name):
    loss, reference, kwargs = SPATIAL[name]
    s, t = maps()
    ones = torch.ones(N, 1, H, W, dtype=torch.float64)
    weight = torch.rand_like(ones)
    torch.testing.assert_close(loss(s, t, **kwargs), reference(s, t, ones))
    torch.testing.assert_close(
        loss(s, t, weight=weight, **kwargs), reference(s, t, weight)
    )


@spatial
def test_gradient_is_right(name):
    loss, _, kwargs = SPATIAL[name]
    s, t = maps()
    assert gradcheck(lambda x: loss(x, t, **kwargs), s.requires_grad_())


@spatial
def test_is_zero_for_equal_features_and_positive_otherwise(name):
    loss, _, kwargs = SPATIAL[name]
    s, t = maps()
    assert abs(float(loss(s, s, **kwargs))) < 1e-12
    assert float(loss(s, t, **kwargs)) > 0


@spatial
def test_a_part_of_the_map_is_learned_and_nothing_else_rewarded(name):
    """Under a weight map, too, the teacher itself is the minimum."""
    loss, _, kwargs = SPATIAL[name]
    s, t = maps()
    weight = (torch.rand(N, 1, H, W, dtype=torch.float64) < 0.3).double()
    weight[:, :, 0, 0] = 1
    assert float(loss(s, t, weight=weight, **kwargs)) > 0
    same = t.clone().requires_grad_()
    value = loss(same, t, weight=weight, **kwargs)
    (gradient,) = torch.autograd.grad(value, same)
    assert abs(float(value)) < 1e-12 and float(gradient.abs().max()) < 1e-12


@spatial
def test_does_not_depend_on_batch_or_image_size(name):
    """A mean per element: the same content twice, in the batch, changes nothing."""
    loss, _, kwargs = SPATIAL[name]
    s, t = maps()
    twice = loss(torch.cat([s, s]), torch.cat([t, t]), **kwargs)
    torch.testing.assert_close(twice, loss(s, t, **kwargs))


def test_kd_equals_the_formula():
    s, t = torch.randn(2, 6, 5, dtype=torch.float64)
    tau, total = 3.0, 0.0
    for n in range(6):
        p = (t[n] / tau).exp() / (t[n] / tau).exp().sum()
        q = (s[n] / tau).exp() / (s[n] / tau).exp().sum()
        total += (p * (p / q).log()).sum()
    torch.testing.assert_close(kd_loss(s, t, tau=tau), tau**2 * total / 6)
    assert gradcheck(lambda x: kd_loss(x, t, tau=tau), s.clone().requires_grad_())


def test_patches_are_compared_among_themselves():
    s, t = maps()
    t = torch.cat([t, t.flip(1)], 1)  # another width
    total = 0.0
    for n in range(N):
        for i in range(H * W):
            for j in range(H * W):
                a = []
                for f in (s[n].flatten(1), t[n].flatten(1)):
                    a.append(f[:, i] @ f[:, j] / (f[:, i].norm() * f[:, j].norm()))
                total += (a[0] - a[1]) ** 2
    torch.testing.assert_close(patch_similarity_loss(s, t), total / (N * (H * W) ** 2))
    small = s[..., :2, :2].clone().requires_grad_()
    assert gradcheck(lambda x: patch_similarity_loss(x, t[..., :2, :2]), small)
    tokens = pair(s.flatten(2).transpose(1, 2), t.flatten(2).transpose(1, 2))
    assert float(PatchSimilarityLoss()(tokens)) == pytest.approx(
        float(patch_similarity_loss(s, t)), rel=1e-4
    )
    with pytest.raises(ConfigError, match='equal positions.*Resize'):
        PatchSimilarityLoss()(pair(s, t[..., 1:]))


def test_pkd_is_one_minus_the_mean_correlation():
    s, t = maps()
    flat = [x.transpose(0, 1).flatten(1) for x in (s, t)]
    r = [torch.corrcoef(torch.stack(rows))[0, 1] for rows in zip(*flat)]
    assert float(pkd_loss(s, t)) == pytest.approx(
        1 - float(torch.stack(r).mean()), abs=1e-5
    )


def test_pkd_gives_a_dead_channel_a_finite_gradient():
    s, t = maps()
    s[:, 1] = 0
    s.requires_grad_()
    pkd_loss(s, t).backward()
    assert s.grad.isfinite().all()


def test_channel_order_matters_where_it_says_so():
    s, t = maps()
    order = torch.tensor([2, 0, 1])
    for criterion in (MSELoss(), CWDLoss(), PKDLoss(), ATLoss()):
        one, other = criterion(pair(s, t)), criterion(pair(s, t[:, order]))
        changed = abs(float(one - other)) > 1e-6
        assert changed == criterion.sees_channel_order


@pytest.mark.parametrize('criterion', [MSELoss, ATLoss, CWDLoss, PKDLoss, KDLoss])
def test_levels_are_added_and_weighted_in_fp32(criterion):
    levels = [torch.randn(N, C, s, s, dtype=torch.bfloat16) for s in (8, 4, 2)]
    other = [torch.randn_like(x) for x in levels]
    parts = [float(criterion()(pair(s, t))) for s, t in zip(levels, other)]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        total = criterion(weight=2.5)(pair(levels, other))
    assert total.dtype == torch.float32
    assert float(total) == pytest.approx(2.5 * math.fsum(parts), rel=1e-5)


def test_unequal_shapes_are_refused_with_what_helps():
    s = torch.zeros(N, C, H, W)
    with pytest.raises(ConfigError, match='ConvAdapter'):
        MSELoss()(pair(s, torch.zeros(N, C + 1, H, W)))
    with pytest.raises(ConfigError, match='Resize'):
        MSELoss()(pair(s, torch.zeros(N, C, H, W + 1)))
    with pytest.raises(ConfigError, match='Resize'):
        ATLoss()(pair(s, torch.zeros(N, C, H, W + 1)))


def test_a_weight_map_needs_positions():
    weight = torch.ones(N, 1, 1, 1)
    vectors = torch.randn(2, N, C)
    for criterion in (MSELoss(), KDLoss()):
        with pytest.raises(ConfigError, match='no positions'):
            criterion(pair(*vectors, weight=weight))


@pytest.mark.parametrize(
    ('kind', 'kwargs'),
    [(MSELoss, dict(weight=-1)), (KDLoss, dict(tau=0)), (CWDLoss, dict(tau=-1))],
)
def test_senseless_numbers_are_refused(kind, kwargs):
    with pytest.raises(ConfigError):
        kind(**kwargs)
