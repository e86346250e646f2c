"""`share`: a link holds its part of the gradient, whatever weight it starts at."""

import copy

import pytest
import torch
import toys
from helpers import (
    build,
    classification_batch,
    detection_batch,
    distill_cfg,
    fitnet,
    link,
    losses_of,
    runner,
)
from torch import Tensor

from kd_mm.errors import ConfigError
from kd_mm.schedule import Progress
from kd_mm.share import OWN, Share

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


# ---- several links ------------------------------------------------------------------


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


def test_a_frozen_link_does_not_count_as_the_task():
    def balance_of(**frozen) -> Tensor:
        links = fitnet(share=dict(target=0.3, interval=2))
        other = dict(target=0.6, interval=2, by_epoch=False, **frozen)
        links['other'] = dict(fitnet()['fpn'], share=other)
        small = toys.classifier()
        model = build(distill_cfg(small, toys.classifier(base=16), links))
        for done in range(30):
            model.distiller.progress = Progress(done / 10, done, 4, 40)
            backward(model)
        return model.distiller.links['fpn'].share.balance

    assert torch.allclose(balance_of(freeze_after=20), balance_of(), atol=1e-3)


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
        dict(custom_hooks=[dict(type='EMAHook', update_buffers=True)]),  # YOLOX's
        pytest.param(
            dict(custom_hooks=[dict(type='EMAHook', begin_iter=2)]),
            marks=pytest.mark.slow,
        ),
        pytest.param(dict(custom_hooks=[dict(type='EMAHook')]), marks=pytest.mark.slow),
        pytest.param(
            dict(optim_wrapper=dict(accumulative_counts=2)), marks=pytest.mark.slow
        ),
    ],
    ids=['plain', 'ema of buffers', 'late ema', 'ema', 'accumulation'],
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
    assert len(names) == 9
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


# ---- taps that are overwritten ------------------------------------------------------


@pytest.mark.parametrize('name', ['conv1', 'bn1'])  # the ReLU behind bn1 is in place
@pytest.mark.parametrize('share', [None, CONSTANT])
def test_a_tensor_that_is_overwritten_is_measured_like_any_other(name, share):
    """Against the gradients that arrive there with the link and without."""
    tap = f'backbone.{name}'  # blocks begin with a factor of 0
    arrived: list[Tensor] = []
    models = []
    for weight in (0.0, 1.0):
        links = link(tap, stages=[dict(type='kd_mm.ConvAdapter')])
        links['fpn']['criterion']['weight'] = weight
        if share and weight:
            links['fpn']['share'] = share
        models.append(
            build(distill_cfg(toys.classifier(), toys.classifier(base=16), links))
        )
        models[-1].get_submodule(tap).register_forward_hook(
            lambda _, __, output: (
                output.register_hook(lambda gradient: arrived.append(gradient.clone()))
                and None
            )
        )
    backward(models[0])
    for _ in range(4 if share else 1):  # with a share: probes in steps 0 and 2
        _, log = backward(models[1])
    task, total = arrived[0], arrived[-1]
    ours = (total - task).norm() / ((total - task).norm() + task.norm())
    if share:
        assert float(ours) == pytest.approx(share['target'], abs=0.02)
        assert float(log['kd_fpn_weight']) > 0
    else:
        _, log = backward(models[1])  # tells what the step before has found
        assert float(log['kd_fpn_gradient_share']) == pytest.approx(float(ours), 1e-3)
