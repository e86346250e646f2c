"""MMEngine's other runner: its strategies build, wrap and load models themselves."""

import pytest
import toys
from helpers import distill_cfg, runner
from mmengine._strategy import SingleDeviceStrategy
from mmengine.hooks import Hook
from mmengine.runner._flexible_runner import FlexibleRunner

from kd_mm.errors import ConfigError


def links(*stages) -> dict:
    link = dict(
        student='neck',
        teacher='neck',
        levels=[0],
        stages=list(stages),
        criterion=dict(type='kd_mm.MSELoss'),
    )
    return dict(fpn=link)


def flexible(folder, *stages, teacher=None, **kwargs):
    cfg = distill_cfg(
        toys.retinanet(), toys.retinanet(), links(*stages), teacher_kwargs=teacher
    )
    kwargs.setdefault('env_cfg', dict(dist_cfg=dict(backend='gloo')))
    return runner(cfg, folder, kind=FlexibleRunner, **kwargs)


class Losses(Hook):
    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append(float(outputs['loss_kd_fpn']))


def test_a_flexible_runner_serves_as_the_runner_does(tmp_path):
    pipeline = dict(test_pipeline=[dict(type='Pack')])
    align = dict(type='kd_mm.ChannelAlign', transform='random', fit_at=1)
    one = flexible(
        tmp_path, align, teacher=dict(validate=True), log_level='INFO', **pipeline
    )
    losses = Losses()
    one.register_hook(losses)
    one.train()
    assert [loss > 0 for loss in losses.seen] == [False] * 4 + [True] * 4
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert log.count('the teacher on the validation set: images 4') == 1


def test_a_policy_learns_through_an_unrolled_step(tmp_path):
    dafa = dict(type='kd_mm.DAFA', objective='unrolled', start=0, search_epochs=1)
    one = flexible(tmp_path, dafa, epochs=1)
    one.train()
    stage = one.model.distiller.links['fpn'].stages[0]
    assert (
        stage.policy.draws == 8
        and float(stage.policy.optimizer.state_dict()['state'][0]['step']) >= 3
    )


def test_what_is_resumed_is_checked(tmp_path):
    flexible(tmp_path, epochs=1).train()
    again = flexible(tmp_path, dict(type='kd_mm.MGD'), resume=True)
    with pytest.raises(ConfigError, match='cannot resume'):
        again.train()


def test_a_strategy_that_was_never_tried_is_refused(tmp_path):
    one = flexible(tmp_path, epochs=1)
    one.strategy.__class__ = type('DeepSpeedStrategy', (SingleDeviceStrategy,), {})
    with pytest.raises(ConfigError, match='DeepSpeedStrategy.*SingleDeviceStrategy'):
        one.train()
