"""DAFA's policy: sampling, gradients, learning, checkpoints."""

import copy

import pytest
import torch

from kd_mm.stages.sokd.operators import OPERATORS
from kd_mm.stages.sokd.policy import Draws, Policy

COST = {'ShearX': 0.7, 'Cutout': -0.4, 'Noise': -0.3}  # the last two are best


def policy(estimator='gumbel', *, operators=tuple(COST), lr=3e-4, **kwargs):
    optimizer = dict(lr=lr, betas=(0.5, 0.999), weight_decay=0.0)
    return Policy(
        operators=operators,
        count=kwargs.pop('count', None),
        estimator=estimator,
        temperature=0.5,
        optimizer=optimizer,
        seed=kwargs.pop('seed', 0),
        **kwargs,
    )


def toy_loss(levers, names):
    """Each operator adds its cost; magnitudes are best at 0.2."""
    cost = torch.tensor([COST[name] for name in names], dtype=levers.dtype)
    return levers[0] * (levers[1:3] * cost).sum() + (levers[3:] - 0.2).square().sum()


def slopes_and_gain(draw):
    levers = draw.levers().requires_grad_()
    loss = toy_loss(levers, draw.names)
    (slopes,) = torch.autograd.grad(loss, levers)
    return slopes, float(loss.detach())


def learn(own, *given):
    """One step on what was given, or on the next draw."""
    draws = Draws(given) or own.draw_all(1)
    slopes, gains = zip(*map(slopes_and_gain, draws), strict=True)
    own.update(draws, torch.stack(slopes), sum(gains))


def test_nine_operators_make_36_pairs():
    full = policy(operators=tuple(OPERATORS))
    assert len(set(full.pairs)) == 36
    assert all(a != b for a, b in full.pairs)
    alpha, beta, magnitude = full.split(full.chi)
    assert (alpha == 1e-3).all() and (beta == 0.5).all() and (magnitude == 0.5).all()
    fewer = policy(operators=tuple(OPERATORS), count=10)
    assert len(set(fewer.pairs)) == 10 and set(fewer.pairs) < set(full.pairs)


def test_draws_follow_the_policy():
    own = policy()
    alpha, beta, _ = own.split(own.chi)
    alpha.copy_(torch.tensor([0.0, 1.0, 2.0]))
    beta.copy_(torch.tensor([0.2, 0.9, 0.5]))
    draws = [own.draw() for _ in range(4000)]
    share = torch.tensor([d.index for d in draws]).bincount(minlength=3) / 4000
    torch.testing.assert_close(share, alpha.softmax(0), atol=0.03, rtol=0)
    for name, expected in zip(COST, beta.tolist(), strict=True):
        ran = [
            b for d in draws for n, b in zip(d.names, d.bits, strict=True) if n == name
        ]
        assert sum(ran) / len(ran) == pytest.approx(expected, abs=0.03)
    assert len({d.chances for d in draws}) > 3900


def test_a_draw_depends_on_seed_and_count_only():
    first, second = policy(), policy()
    torch.rand(3)
    for _ in range(5):
        assert first.draw().chances == second.draw().chances
    assert policy(seed=1).draw().chances != policy().draw().chances


def exact_gradient(own_policy):
    """Of the expected loss over all choices and bits, with magnitudes held."""
    chi = own_policy.chi.double().requires_grad_()
    alpha, beta, magnitude = own_policy.split(chi)
    total = 0.0
    for k, names in enumerate(own_policy.pairs):
        for bits in ((0, 0), (0, 1), (1, 0), (1, 1)):
            levers = torch.tensor([1.0, *bits]).double()
            own = own_policy.members[k]
            levers = torch.cat([levers, magnitude[own]])
            p = alpha.softmax(0)[k]
            for j, bit in enumerate(bits):
                p = p * (beta[own[j]] if bit else 1 - beta[own[j]])
            total = total + p * toy_loss(levers, names)
    return torch.autograd.grad(total, chi)[0]


def test_relax_is_unbiased():
    own = policy('relax')
    own.split(own.chi)[1].copy_(torch.tensor([0.3, 0.8, 0.6]))
    # a control variate that is not zero, so that its terms have to cancel
    own.control.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    found = []
    for _ in range(2500):
        draw = own.draw()
        found.append(own.gradient(draw, *slopes_and_gain(draw))[0])
    found = torch.stack(found).double()
    error = (found.mean(0) - exact_gradient(own)).abs()
    allowed = 4 * found.std(0) / len(found) ** 0.5
    assert (error < allowed + 1e-6).all(), (error / allowed).max()


def test_the_control_variate_reduces_the_variance():
    own = policy('relax')
    plain, learned = [], []
    for step in range(1500):
        draw = own.draw()
        slopes, gain = slopes_and_gain(draw)
        gain += 3.0  # a constant that a good control variate takes out
        estimate, d_control = own.gradient(draw, slopes, gain)
        (plain if step < 200 else learned).append(estimate[:6])
        own.control.grad = d_control
        own.chi.grad = torch.zeros_like(own.chi)
        own.optimizer.step()
    first, last = torch.stack(plain).var(0).sum(), torch.stack(learned[-200:]).var(0)
    assert float(last.sum()) < 0.5 * float(first)


@pytest.mark.parametrize('estimator', ['gumbel', 'relax'])
def test_the_policy_finds_the_optimum(estimator):
    own = policy(estimator, lr=0.02)
    for _ in range(600):
        learn(own)
    alpha, beta, magnitude = own.split(own.chi)
    best = own.pairs.index(('Cutout', 'Noise'))
    assert int(alpha.argmax()) == best
    assert beta[0] < 0.2 and (beta[1:] > 0.8).all()
    torch.testing.assert_close(magnitude, torch.full((3,), 0.2), atol=0.05, rtol=0)
    assert own.entropy() < 0.9 * torch.tensor(3.0).log()
    assert own.summary()['Cutout']['weight'] > 0.8


@pytest.mark.parametrize('estimator', ['gumbel', 'relax'])
def test_a_restored_policy_goes_on_bit_for_bit(estimator):
    own = policy(estimator, lr=0.02)

    def steps(one, count):
        for _ in range(count):
            draw = one.draw()
            learn(one, draw)

    steps(own, 20)
    other = policy(estimator, lr=0.02)
    other.load(own.state())
    copied = copy.deepcopy(own)
    for one in (own, other, copied):
        steps(one, 20)
    assert torch.equal(own.state(), other.state())
    assert torch.equal(own.state(), copied.state())
    assert own.draws == 40
    with pytest.raises(ValueError, match='other operators'):
        policy(estimator, operators=('Noise', 'Cutout')).load(own.state())


def test_a_gradient_that_is_not_finite_teaches_nothing():
    own = policy()
    before = own.chi.clone()
    draw = own.draw()
    own.update(Draws([draw]), torch.full((1, 5), float('nan')), 1.0)
    own.update(Draws([draw]), torch.zeros(1, 5), float('nan'))
    assert torch.equal(own.chi, before)


@pytest.mark.parametrize('estimator', ['gumbel', 'relax'])
def test_the_draws_of_a_step_add_up(estimator):
    """As many draws, one gradient: that of each, summed."""
    own = policy(estimator)
    draws = own.draw_all(3)
    slopes, gains = zip(*map(slopes_and_gain, draws), strict=True)
    gain = sum(gains)
    wanted = sum(own.gradient(d, s, gain)[0] for d, s in zip(draws, slopes))
    own.weight_decay, seen = 0.0, []
    own.optimizer.step = lambda: seen.append(own.chi.grad.clone())
    own.update(draws, torch.stack(slopes), gain)
    torch.testing.assert_close(seen[0], wanted)


@pytest.mark.parametrize('estimator', ['gumbel', 'relax'])
def test_a_harmful_operator_can_be_given_up(estimator):
    own = policy(estimator, lr=0.1, least=0.0)
    for _ in range(200):
        learn(own)
    beta = own.split(own.chi)[1]
    assert beta[0] == 0 and own.chi.isfinite().all()
    given_up = [d for d in own.draw_all(200) if d.names[0] == list(COST)[0]]
    assert given_up and not any(d.bits[0] for d in given_up)
    kept = policy(estimator, lr=0.1)
    for _ in range(200):
        learn(kept)
    assert kept.split(kept.chi)[1][0] == pytest.approx(1e-3)
