"""Link weight schedules."""

import pytest
import toys
from helpers import build, detection_batch, distill_cfg, fitnet, losses_of
from mmengine.logging import MessageHub

from kd_mm.errors import ConfigError
from kd_mm.schedule import Progress, Schedule


def factor(epoch: float, **kwargs) -> float:
    return Schedule(**kwargs).factor(Progress(epoch, epoch * 10, 12, 120))


def test_constant_is_one():
    assert [factor(e) for e in (0, 5, 12)] == [1, 1, 1]


def test_rises_and_falls_linearly():
    kwargs = dict(warmup=2, decay=4)
    assert [factor(e, **kwargs) for e in (0, 1, 2, 8, 10, 12)] == [0, 0.5, 1, 1, 0.5, 0]


def test_cosine_meets_linear_at_the_ends_and_the_middle():
    for epoch, value in ((0, 0), (1, 0.5), (2, 1), (0.5, 0.5 - 0.5 * 2**-0.5)):
        assert factor(epoch, warmup=2, shape='cosine') == pytest.approx(value)


def test_stops_at_an_epoch():
    kwargs = dict(stop=6, decay=2)
    assert [factor(e, **kwargs) for e in (0, 4, 5, 6, 7)] == [1, 1, 0.5, 0, 0]


def test_counts_iterations():
    assert factor(1, warmup=20, by_epoch=False) == 0.5


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(warmup=-1),
        dict(stop=1, warmup=2),
        dict(shape='step'),
        dict(shape='cosine'),
        dict(stop=0),
    ],
)
def test_senseless_numbers_are_refused(kwargs):
    with pytest.raises(ConfigError):
        Schedule(**kwargs)


@pytest.fixture
def hub():
    hub = MessageHub.get_current_instance()
    yield hub
    for key in ('iter', 'epoch', 'max_iters', 'max_epochs'):
        hub.runtime_info.pop(key, None)


def test_after_the_stop_the_teacher_is_not_run_at_all(hub, monkeypatch):
    model = build(
        distill_cfg(toys.retinanet(), toys.retinanet(), fitnet(schedule=dict(stop=2)))
    )
    for name, value in dict(iter=19, max_iters=40, max_epochs=4).items():
        hub.update_info(name, value)
    assert float(losses_of(model, detection_batch())['loss_kd_fpn']) > 0
    hub.update_info('iter', 20)
    monkeypatch.setattr(
        model.distiller.teacher.model, 'forward', lambda *a, **k: pytest.fail('ran')
    )
    assert float(losses_of(model, detection_batch())['loss_kd_fpn']) == 0


def test_the_factor_scales_the_loss(hub):
    model = build(
        distill_cfg(toys.retinanet(), toys.retinanet(), fitnet(schedule=dict(warmup=2)))
    )
    values = []
    for done in (5, 10, 20):
        for name, value in dict(iter=done, max_iters=40, max_epochs=4).items():
            hub.update_info(name, value)
        model.train()
        values.append(
            float(losses_of(model, detection_batch())['loss_kd_fpn'].detach())
        )
    assert values[0] / values[2] == pytest.approx(0.25, rel=0.05)
    assert values[1] / values[2] == pytest.approx(0.5, rel=0.05)
