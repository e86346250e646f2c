"""`Share` without a model, on gradients of given norms: how it settles and follows."""

import math

import pytest
import torch
from mmengine.logging import MMLogger

from kd_mm.schedule import Progress
from kd_mm.share import LIMIT, SETTLED, Share, ratios


def step(share: Share, kd, task, *, ratio: float = 1.0, scale: float = 1.0) -> float:
    """One step with gradients of these norms; what of the link's arrived."""
    x = torch.zeros(4, requires_grad=True)
    feature = x * 1
    share.settle()
    (alias,) = share.hold([feature], ratio, probe=share.due(Progress()))
    share.count()
    (end,) = share.end([alias * 10], [])
    loss = share.own(kd * end.sum() / 20)
    (scale * (loss + task * feature.sum() / 2)).backward()
    return float(x.grad.sum() / 2 - scale * task)


# ---- settling -----------------------------------------------------------------------


@pytest.mark.parametrize('weight', [1e-4, 0.01, 1.0, 100.0, 1e4])
@pytest.mark.parametrize('target', [0.1, 0.5, 0.9])
def test_a_link_holds_its_share_from_the_second_step_on(weight, target):
    share, ratio = Share(target=target), target / (1 - target)
    arrived = [step(share, 3 * weight, 2.0, ratio=ratio) for _ in range(4)]
    wanted = [0, 2 * ratio, 0, 2 * ratio]  # in every other step it measures
    assert arrived == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    share.settle()
    assert float(share.value) == pytest.approx(target, rel=1e-3)


def test_it_follows_gradients_that_change_by_bounded_steps():
    share = Share(target=0.5, interval=2)
    for _ in range(4):
        step(share, 1.0, 1.0)
    before, logs = float(share.balance[0]), []
    for _ in range(40):
        step(share, 1.0, 1e4)
        share.settle()
        logs.append(float(share.balance[0]))
    assert logs[0] - before == pytest.approx(LIMIT, rel=1e-4)
    ways = [abs(b - a) for a, b in zip(logs, logs[1:])]
    assert max(ways) <= LIMIT * 1.001
    assert logs[-1] == pytest.approx(math.log(1e4), rel=1e-3)


def test_the_factor_of_the_links_own_modules_is_found_in_the_first_steps():
    share = Share(target=0.5, interval=2)
    for done in range(4 * SETTLED):
        step(share, 1.0 if done < SETTLED else 100.0, 1.0)
    share.settle()
    ends = share.balance.exp().tolist()  # the gradient grows tenfold on its way
    assert ends == pytest.approx([0.01, 10.0], rel=0.01)


def test_the_multiplier_has_bounds():
    for kd, bound in ((1e-12, 1e6), (1e12, 1e-6)):
        share = Share(target=0.5)
        for _ in range(4):
            step(share, kd, 1.0)
        assert float(share.weight) == pytest.approx(bound, rel=1e-3)


@pytest.mark.parametrize('bad', [0.0, math.nan, math.inf])
@pytest.mark.parametrize('side', ['kd', 'task'])
def test_a_gradient_that_is_0_or_overflows_leaves_the_multiplier(bad, side):
    share = Share(target=0.5, interval=2)
    fine = dict(kd=4.0, task=2.0)
    for _ in range(4):
        step(share, **fine)
    for _ in range(4):
        step(share, **(fine | {side: bad}))
    assert step(share, **fine) in (0.0, pytest.approx(2.0))
    assert float(share.weight) == pytest.approx(0.5)


def test_nothing_arrives_before_something_was_measured():
    share = Share(target=0.5)
    for _ in range(6):
        step(share, math.inf, 1.0)
    assert float(share.weight) == 0
    for _ in range(4):
        step(share, 4.0, 2.0)
    assert float(share.weight) == pytest.approx(0.5)


def test_a_share_that_can_never_be_measured_says_so(monkeypatch):
    seen: list[str] = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning', seen.append)
    for task in (0.0, 1.0):
        share = Share(target=0.5)
        for _ in range(100):
            step(share, 1.0, task)
    assert len(seen) == 1 and 'has no effect' in seen[0]


def test_a_loss_scale_and_accumulated_gradients_do_not_matter():
    weights = []
    for scale in (1.0, 2.0**16, 1 / 8):
        share = Share(target=0.5)
        for i in range(20):
            step(share, 1.0 + i, 3.0, scale=scale)
        weights.append(float(share.weight))
    assert weights == pytest.approx([weights[0]] * 3, rel=1e-4)


def test_a_link_that_overflows_half_precision_enters_with_less():
    """A loss scale that the task bears, and ten times its gradient in the link."""
    share = Share(target=0.5)
    for _ in range(6):
        x = torch.zeros(4, requires_grad=True)
        feature = (x * 1).half()
        share.settle()
        (alias,) = share.hold([feature], 1.0, probe=share.due(Progress()))
        share.count()
        (end,) = share.end([alias], [])
        loss = share.own(0.2 * end.float().sum()) + 1e-3 * feature.float().sum()
        (2.0**16 * loss).backward()
    assert float(share.measured) == 1
    assert float(share.weight) == pytest.approx(1e-3 / 0.2, rel=1e-2)


def test_a_pass_beside_a_probe_is_not_measured():
    """That on images without labels, whose features are others."""
    share = Share(target=0.5)
    for probe in (True, False):
        feature = torch.zeros(4, requires_grad=True) * 1
        aliases = share.hold([feature], 1.0, probe=probe)
        ends = share.end(aliases, [])
        assert (ends is aliases) == (not probe)


# ---- several features, several links ------------------------------------------------


def test_levels_without_a_gradient_do_not_count_and_a_feature_counts_once():
    share = Share(target=0.75, falls_to=1.0)
    for _ in range(4):
        x = torch.zeros(4, requires_grad=True)
        level, silent = x * 1, x * 1
        share.settle()
        tapped = [level, silent, level]
        first, other, again = share.hold(tapped, 3.0, probe=share.due(Progress()))
        share.count()
        ends = share.end([first, other, again], [])
        loss = share.own(5 * ends[0].sum() + 2 * ends[2].sum())
        (loss + level.sum() + silent.sum()).backward()
    kd = x.grad.norm() - 4  # task and link point the same way
    assert float(kd) == pytest.approx(6.0, rel=1e-3)  # three times the level's task
    share.settle()
    assert float(share.value) == pytest.approx(0.75, rel=1e-3)


def test_links_on_one_feature_settle_and_the_task_keeps_the_rest():
    shares = dict(a=Share(target=0.5), b=Share(target=0.3))
    targets = dict(a=0.5, b=0.3)
    for _ in range(40):
        x = torch.zeros(4, requires_grad=True)
        feature = x * 1
        wanted = ratios(targets, dict(a=[feature], b=[feature]))
        total = 7.0 * feature.sum()
        for name, kd in dict(a=100.0, b=0.01).items():
            shares[name].settle()
            probe = shares[name].due(Progress())
            (alias,) = shares[name].hold([feature], wanted[name], probe=probe)
            shares[name].count()
            (end,) = shares[name].end([alias], [])
            total = total + shares[name].own(kd * end.sum())
        total.backward()
    parts = [100.0 * float(shares['a'].weight), 0.01 * float(shares['b'].weight), 7.0]
    assert [p / sum(parts) for p in parts] == pytest.approx([0.5, 0.3, 0.2], rel=1e-3)


# ---- time ---------------------------------------------------------------------------


def test_the_target_falls_over_the_run():
    share = Share(target=0.8, falls_to=0.25)
    at = [share.target(Progress(None, i, None, 100)) for i in (0, 50, 100)]
    assert at == pytest.approx([0.8, 0.5, 0.2])
    assert share.target(Progress(None, 50, None, None)) == 0.8


@pytest.mark.parametrize('angle', [0.0, 89.0, 120.0])
def test_a_link_that_pulls_elsewhere_than_the_task_is_ended(angle, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'info', said.append)
    share = Share(target=0.5, interval=2, stop_after=1)
    way = torch.tensor([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
    arrived = []
    for done in range(3 * SETTLED):
        x = torch.zeros(2, requires_grad=True)
        feature = x * 1
        share.settle()
        share.judge(Progress(done / (2 * SETTLED), done, 2, 100), 'fpn')
        (alias,) = share.hold([feature], 1.0, probe=share.due(Progress()))
        share.count()
        (end,) = share.end([alias], [])
        (share.own((end * way).sum()) + feature[0]).backward()
        arrived.append(float(x.grad[0] - 1))
    cosine = math.cos(math.radians(angle))
    assert float(share.agreement) == pytest.approx(cosine, abs=1e-3)
    assert arrived[SETTLED + 1] == pytest.approx(cosine, abs=1e-3)
    after = 0 if angle else cosine
    assert arrived[-1] == pytest.approx(after, abs=1e-3)
    assert len(said) == 1 and ('the link ends' if angle else 'goes on') in said[0]
    again = Share(target=0.5, interval=2, stop_after=1)
    again.load_state_dict(share.state_dict())
    again.judge(Progress(2, 2, 2, 100), 'fpn')
    assert again._verdict is None and torch.equal(again.stopped, share.stopped)
    assert again.ended == share.ended == (angle > 0)
