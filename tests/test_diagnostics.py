"""The gradient share is exact, and NaN is reported with the link that made it."""

import logging

import pytest
import torch
import toys
from helpers import build, detection_batch, distill_cfg, fitnet, losses_of
from mmengine.logging import MMLogger

from kd_mm.diagnostics import GradientShare, NonFiniteWatch
from kd_mm.errors import ConfigError
from kd_mm.schedule import Progress


def test_share_equals_the_two_gradients_computed_apart():
    x = torch.randn(3, 4, requires_grad=True)
    levels = [x * 2, x.sin()]
    target = torch.randn(3, 4)

    def kd(features):
        return sum((f - target).square().mean() for f in features)

    def task(features):
        return sum(f.abs().sum() * (i + 1) for i, f in enumerate(features))

    parts = [torch.autograd.grad(loss(levels), levels) for loss in (kd, task)]
    norms = [torch.cat([g.flatten() for g in part]).norm() for part in parts]
    share = GradientShare()
    # the network goes on with the tapped tensors, the link with their aliases
    levels = [x * 2, x.sin()]
    aliases = share.watch(levels)
    (kd(aliases) + task(levels)).backward()
    assert float(share.value) == pytest.approx(float(norms[0] / sum(norms)), rel=1e-5)


def test_levels_without_a_gradient_do_not_count_and_a_feature_counts_once():
    x = torch.randn(3, 4, requires_grad=True)
    level, silent = x * 2, x.sin()
    share = GradientShare()
    first, _, again = share.watch([level, silent, level])
    (3 * first.sum() + again.sum() + (level + silent).sum()).backward()
    assert float(share.value) == pytest.approx(4 / 5, rel=1e-6)


def test_share_leaves_gradients_as_they_are():
    results = []
    for interval in (0, 1):
        cfg = distill_cfg(toys.retinanet(), toys.retinanet())
        model = build(cfg | dict(gradient_share_interval=interval))
        losses = losses_of(model, detection_batch())
        model.parse_losses(losses)[0].backward()
        results.append([p.grad for p in model.parameters()])
        measured = model.distiller.shares['fpn'].value is not None
        assert measured == bool(interval)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.fixture
def reports(monkeypatch):
    seen = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'error', seen.append)
    assert isinstance(logger, logging.Logger)
    return seen


def test_nan_is_reported_with_the_link_that_made_it(reports):
    links = fitnet()
    links['other'] = fitnet()['fpn']
    model = build(distill_cfg(toys.retinanet(), toys.retinanet(), links))
    adapter = model.distiller.links['other'].stages[0].adapters[2][0].conv
    torch.nn.init.constant_(adapter.weight, float('nan'))
    losses_of(model, detection_batch())
    assert len(reports) == 1 and reports[0].startswith('loss_kd_other is NaN')


def test_a_broken_run_does_not_fill_the_log(reports):
    watch = NonFiniteWatch(stop=False)
    for _ in range(20):
        watch(dict(loss_kd_x=torch.tensor(float('inf'))))
    assert len(reports) == NonFiniteWatch.reports


def shares(scales: list[float], interval: int) -> list[float | None]:
    """What is logged in every step, if the task's gradient is scaled so."""
    share, out = GradientShare(), []
    for scale in scales:
        x = torch.ones(3, requires_grad=True)
        feature = x * 1
        (alias,) = share.watch([feature], interval)
        (alias.sum() + scale * feature.sum()).backward()
        out.append(None if share.value is None else float(share.value))
    return out


def test_a_short_run_shows_more_than_one_share():
    steps = [float(i) for i in range(120)]
    seen = shares(steps, 50)
    measured = [0] + [i for i in range(1, 120) if seen[i] != seen[i - 1]]
    assert measured == [0, 1, 2, 4, 8, 16, 32, 50, 64, 100]
    assert seen[50] == pytest.approx(1 / 51, rel=1e-4)


def test_an_overflow_leaves_the_share_before_it():
    seen = shares([1.0, float('inf'), float('nan'), 3.0, 3.0], 1)
    assert seen == pytest.approx([0.5, 0.5, 0.5, 0.25, 0.25])
    assert shares([float('inf'), 1.0], 50)[1] == pytest.approx(0.5)


def test_a_link_that_begins_late_is_measured_at_once():
    links = fitnet()
    links['late'] = dict(links['fpn'], schedule=dict(warmup=4))
    model = build(distill_cfg(toys.retinanet(), toys.retinanet(), links))
    for done in range(4):
        model.distiller.progress = Progress(float(done), done, 8, 8)
        losses = losses_of(model, detection_batch())
        model.parse_losses(losses)[0].backward()
        measured = model.distiller.shares['late'].value is not None
        assert measured == (done >= 1)


def test_passes_that_are_taken_back_are_no_steps(monkeypatch):
    model, seen = build(distill_cfg(toys.retinanet(), toys.retinanet())), []
    monkeypatch.setattr(model.distiller, 'watch', seen.append)
    with model.distiller.not_measuring():
        losses_of(model, detection_batch())
    assert not seen
    losses_of(model, detection_batch())
    assert len(seen) == 1


NAN, FINE = torch.tensor(float('nan')), torch.tensor(1.0)


def test_a_run_whose_loss_stays_nan_ends_and_names_the_loss():
    watch = NonFiniteWatch(stop=True)
    for _ in range(NonFiniteWatch.patience - 1):
        watch(dict(loss_cls=[FINE, FINE], loss_kd_fpn=NAN))
    with pytest.raises(ConfigError, match='^loss_kd_fpn is NaN.*5 steps.*stop_on_nan'):
        watch(dict(loss_cls=[FINE, FINE], loss_kd_fpn=NAN))


def test_losses_of_the_task_count_and_what_is_no_loss_does_not():
    watch = NonFiniteWatch(stop=True)
    with pytest.raises(ConfigError, match='^loss_cls is NaN'):
        for _ in range(NonFiniteWatch.patience):
            watch(dict(loss_cls=[FINE, NAN], loss_kd_fpn=FINE, kd_fpn_cka=NAN))


def test_a_step_that_overflows_now_and_then_is_no_reason_to_stop():
    watch = NonFiniteWatch(stop=True)
    for step in range(10 * NonFiniteWatch.patience):
        watch(dict(loss_cls=NAN if step % NonFiniteWatch.patience else FINE))


@pytest.mark.parametrize('stop', [True, False])
def test_stop_on_nan_is_an_option_of_the_model(stop, reports):
    model = build(
        distill_cfg(toys.retinanet(), toys.retinanet()) | dict(stop_on_nan=stop)
    )
    conv = model.distiller.links['fpn'].stages[0].adapters[2][0].conv
    torch.nn.init.constant_(conv.weight, float('nan'))
    for _ in range(NonFiniteWatch.patience - 1):
        losses_of(model, detection_batch())
    if not stop:
        losses_of(model, detection_batch())
        return
    with pytest.raises(ConfigError, match='^loss_kd_fpn is NaN'):
        losses_of(model, detection_batch())
