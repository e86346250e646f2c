"""`share`: a link holds its part of the gradient, whatever weight it starts at."""

import copy
import math

import pytest
import torch
import toys
from helpers import (
    build,
    classification_batch,
    detection_batch,
    distill_cfg,
    fitnet,
    losses_of,
    runner,
)
from mmengine.logging import MMLogger
from torch import Tensor

from kd_mm.errors import ConfigError
from kd_mm.schedule import Progress
from kd_mm.share import LIMIT, OWN, SETTLED, Share, ratios

ADAPTER = 'distiller.links.fpn.stages.0.adapters.0.0.conv.weight'
CONSTANT = dict(target=0.5, falls_to=1.0)


def model_of(share, *, weight: float = 1.0, **link):
    links = fitnet(weight=weight, **link)
    if share is not None:
        links['fpn']['share'] = share
    return build(distill_cfg(toys.classifier(), toys.classifier(base=16), links))


def backward(model, *, scale: float = 1.0) -> tuple[dict[str, Tensor], dict]:
    """Gradients of one step, and what was logged."""
    model.zero_grad()
    total, log = model.parse_losses(losses_of(model, classification_batch()))
    (total * scale).backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return grads, log


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


# ---- what is scaled -----------------------------------------------------------------


def test_losses_stay_and_the_gradient_arrives_with_its_share():
    alone, _ = backward(model_of(None, weight=0.0))
    plain, log = backward(model_of(None))
    model = model_of(CONSTANT)
    steps = [backward(model) for _ in range(4)]  # probes: 0, 2
    weight = float(steps[3][1]['kd_fpn_weight'])
    assert weight not in (0.0, 1.0)
    for name, gradient in alone.items():
        if name.startswith('distiller.'):
            continue
        probe, own = steps[0][0][name], steps[3][0][name]
        assert torch.allclose(probe, gradient, rtol=1e-4, atol=1e-6), name
        wanted = gradient + weight * (plain[name] - gradient)
        error = (own - wanted).abs().max()
        assert float(error) <= 1e-3 * float(wanted.abs().max()) + 1e-5, name
    for _, seen in steps:
        assert float(seen['loss_kd_fpn']) == pytest.approx(
            float(log['loss_kd_fpn']), rel=1e-4
        )
    shares = [float(seen['kd_fpn_gradient_share']) for _, seen in steps[1:]]
    assert shares == pytest.approx([0.0, 0.0, 0.5], rel=0.02)
    assert {name for name in log if 'loss' in name} == {
        name for name in steps[3][1] if 'loss' in name
    }


def with_dam(share, weight: float):
    """A detector whose link has an adapter, and a stage with a loss of its own."""
    links = fitnet(weight=weight)
    links['fpn']['stages'].append(dict(type='kd_mm.DAM', hidden=4, weight=weight))
    if share is not None:
        links['fpn']['share'] = share
    return build(distill_cfg(toys.retinanet(), toys.retinanet(width=24), links))


def detector_gradients(model) -> dict[str, Tensor]:
    torch.manual_seed(0)  # the sampling of anchors
    model.zero_grad()
    model.parse_losses(losses_of(model, detection_batch()))[0].backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_nobody_learns_more_from_a_larger_weight():
    """Neither the student nor the link's modules, extra losses included."""
    plain = detector_gradients(with_dam(None, 1.0))
    found = []
    for weight in (0.01, 1.0, 100.0):
        model = with_dam(CONSTANT, weight)
        first = detector_gradients(model)
        for name, gradient in first.items():
            if name.startswith('distiller.'):
                assert not gradient.any(), name  # nothing is known yet
        for _ in range(2):
            detector_gradients(model)
        found.append(detector_gradients(model))
    own = model.distiller.links['fpn'].share.balance[1].exp() * 100 * OWN
    assert any('.stages.1.' in name for name in plain)
    for name, gradient in plain.items():
        biggest = float(found[1][name].abs().max())
        for other in (found[0], found[2]):
            error = float((other[name] - found[1][name]).abs().max())
            assert error <= 2e-3 * biggest + 1e-7, name
        if name.startswith('distiller.'):  # all of the link by one factor
            assert torch.allclose(found[1][name], gradient * own, rtol=0.02, atol=1e-4)


def test_modules_learn_where_the_student_gets_next_to_nothing():
    model = model_of(dict(target=1e-5, falls_to=1.0))
    other = model_of(dict(target=0.5, falls_to=1.0))
    small, large = [[backward(m)[0] for _ in range(4)][3] for m in (model, other)]
    assert small[ADAPTER].any()
    assert torch.allclose(small[ADAPTER], large[ADAPTER], rtol=1e-3, atol=1e-7)


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


# ---- several links ------------------------------------------------------------------


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


def two_links(first: float, second: float) -> dict:
    links = fitnet(share=first)
    return links | dict(other=dict(fitnet()['fpn'], share=second, levels=[1]))


def test_links_that_leave_the_task_nothing_are_refused():
    small = toys.classifier()
    with pytest.raises(ConfigError, match='links fpn, other.*0.6 .*0.4.*nothing'):
        build(distill_cfg(small, small, two_links(0.6, 0.4)))
    links = two_links(0.6, 0.4)
    links['other']['criterion']['weight'] = 0  # does not run
    build(distill_cfg(small, small, links))


def test_links_that_feed_each_other_settle():
    """Their gradients reach each other's features; what is measured is the task's."""
    links = dict(
        late=dict(fitnet(weight=1e3)['fpn'], share=0.8),
        early=dict(
            student='backbone.layer2',
            teacher='backbone.layer2',
            stages=[dict(type='kd_mm.ConvAdapter')],
            criterion=dict(type='kd_mm.MSELoss', weight=1e-3),
            share=0.8,
        ),
    )
    model = build(distill_cfg(toys.classifier(), toys.classifier(base=16), links))
    seen = []
    for _ in range(12):
        seen.append(backward(model)[1])
    for name in links:
        weights = [float(log[f'kd_{name}_weight']) for log in seen]
        assert weights[3:] == pytest.approx(weights[3:4] * 9, rel=0.01)
    # the late link is not measured in a probe of the early one alone
    assert float(seen[-1]['kd_late_gradient_share']) == pytest.approx(0.8, rel=0.01)


# ---- time ---------------------------------------------------------------------------


def test_the_schedule_scales_the_target_and_not_the_loss():
    model = model_of(CONSTANT, schedule=dict(warmup=2))
    weights, losses = [], []
    for done in range(0, 9, 2):
        model.distiller.progress = Progress(done / 4, done, 8, 32)
        _, log = backward(model)
        weights.append(float(log.get('kd_fpn_weight', 0.0)))
        losses.append(float(log['loss_kd_fpn']))
    assert weights[0] == weights[1] == losses[0] == 0  # off; the first step measures
    full = weights[4]
    assert [w / full for w in weights[2:]] == pytest.approx([1 / 3, 0.6, 1], rel=0.01)
    assert losses[1:] == pytest.approx([losses[1]] * 4, rel=1e-3)


def test_the_target_falls_over_the_run():
    share = Share(target=0.8, falls_to=0.25)
    at = [share.target(Progress(None, i, None, 100)) for i in (0, 50, 100)]
    assert at == pytest.approx([0.8, 0.5, 0.2])
    assert share.target(Progress(None, 50, None, None)) == 0.8


def test_freeze_after_an_epoch_the_multiplier_stays():
    model = model_of(dict(CONSTANT, freeze_after=2, interval=2))
    share = model.distiller.links['fpn'].share
    for done in range(40):
        model.distiller.progress = Progress(done / 10, done, 4, 40)
        backward(model)
        if done == 20:
            frozen = share.balance.clone()
            share.balance += 1  # whatever it is, it stays
    assert torch.equal(share.balance, frozen + 1)
    with pytest.raises(ConfigError, match='freeze_after=9 is never reached'):
        Share(target=0.5, freeze_after=9).check_time(Progress(0, 0, 4, 40))
    with pytest.raises(ConfigError, match='stop_after=9 is never reached'):
        Share(target=0.5, stop_after=9).check_time(Progress(0, 0, 4, 40))


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


def test_a_weight_of_0_is_the_baseline():
    alone = build(toys.classifier())
    alone.parse_losses(losses_of(alone, classification_batch()))[0].backward()
    own, log = backward(model_of(0.5, weight=0.0))
    assert not any('weight' in name or 'share' in name for name in log)
    for name, parameter in alone.named_parameters():
        assert torch.equal(own[name], parameter.grad)


# ---- runs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    'extra',
    [
        dict(),
        pytest.param(dict(custom_hooks=[dict(type='EMAHook')]), marks=pytest.mark.slow),
        pytest.param(
            dict(optim_wrapper=dict(accumulative_counts=2)), marks=pytest.mark.slow
        ),
    ],
    ids=['plain', 'ema', 'accumulation'],
)
def test_a_resumed_run_has_the_same_multiplier_bit_for_bit(tmp_path, extra):
    links = fitnet(share=dict(target=0.5, interval=3))
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(width=24, base=16), links)
    whole = runner(cfg, tmp_path / 'whole', epochs=3, **copy.deepcopy(extra))
    whole.train()
    half = runner(cfg, tmp_path / 'whole', epochs=3, **copy.deepcopy(extra))
    half._resume, half._load_from = True, str(tmp_path / 'whole/epoch_1.pth')
    half.train()
    own, other = (run.model.state_dict() for run in (half, whole))
    names = [name for name in own if '.share.' in name]
    assert len(names) == 5
    for name, value in other.items():
        assert torch.equal(own[name], value), name


def test_a_new_start_from_a_distilled_checkpoint_measures_anew(tmp_path):
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(), fitnet(share=0.5))
    first = runner(cfg, tmp_path, epochs=1)
    first.train()
    again = runner(cfg, tmp_path, epochs=1, load_from=str(tmp_path / 'epoch_1.pth'))
    again.train()
    shares = [run.model.distiller.links['fpn'].share for run in (first, again)]
    assert shares[0]._steps == shares[1]._steps == 4


@pytest.mark.parametrize(
    ('share', 'message'),
    [
        (0.0, r'links.fpn.share: expected a finite number in \(0, 1\)'),
        (1, r'links.fpn.share: .*in \(0, 1\)'),
        ('half', 'links.fpn.share'),
        (dict(), 'links.fpn.share.target is missing'),
        (dict(target=1.5), 'links.fpn.share.target'),
        (dict(target=0.5, interval=1), 'share.interval: expected an int >= 2'),
        (dict(target=0.5, falls_to=2), 'share.falls_to'),
        (dict(target=0.5, frozen_after=2), 'nearest: freeze_after'),
    ],
)
def test_options_are_checked(share, message):
    with pytest.raises(ConfigError, match=message):
        model_of(share)
