"""`train --epochs`: whatever counts epochs moves with the length of training."""

import copy

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope

from kd_mm.errors import ConfigError
from kd_mm.utils.cli import load_config
from kd_mm.utils.length import moment, set_length

ITERS = 4  # of an epoch


def rates(cfg) -> list[float]:
    """The rate of every iteration, by MMEngine's own schedulers, of 1 at first."""
    wrapper = OptimWrapper(
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    )
    epochs, built = cfg.train_cfg.max_epochs, []
    schedulers = cfg.param_scheduler
    with DefaultScope.overwrite_default_scope('mmdet'):
        for own in [schedulers] if isinstance(schedulers, dict) else schedulers:
            own = copy.deepcopy(own)
            if not own.get('by_epoch', True) or own.type.endswith('ParamScheduler'):
                continue
            own.setdefault('end', epochs)
            extra = dict(optimizer=wrapper, epoch_length=ITERS)
            built.append(PARAM_SCHEDULERS.build(own, default_args=extra))
    found = []
    for _ in range(epochs):
        for _ in range(ITERS):
            found.append(wrapper.optimizer.param_groups[0]['lr'])
            for scheduler in built:
                if not scheduler.by_epoch:
                    scheduler.step()
        for scheduler in built:
            if scheduler.by_epoch:
                scheduler.step()
    return found


def config(*schedulers, epochs=24, **more) -> Config:
    loop = dict(by_epoch=True, max_epochs=epochs)
    return Config(dict(train_cfg=loop, param_scheduler=list(schedulers), **more))


KINDS = {
    'MultiStep': [dict(type='MultiStepLR', milestones=[16, 22])],
    'Step': [dict(type='StepLR', step_size=8)],
    'small steps': [dict(type='StepLR', step_size=1, gamma=0.9)],
    'Exponential': [dict(type='ExponentialLR', gamma=0.9)],
    'cosine after a warm-up': [
        dict(type='LinearLR', start_factor=0.1, end=6),
        dict(type='CosineAnnealingLR', begin=6, eta_min=0.01),
    ],
    'late cosine': [
        dict(type='CosineAnnealingLR', begin=12, end=24, T_max=12, eta_min=0.01,
             convert_to_iter_based=True)
    ],
    'OneCycle': [dict(type='OneCycleLR', eta_max=1.0, total_steps=24)],
    'restarts': [
        dict(type='CosineRestartLR', periods=[8, 16], restart_weights=[1, 0.5],
             eta_min=0.0)
    ],
    'Poly': [dict(type='PolyLR', power=0.9, eta_min=0.01, end=24)],
}  # fmt: skip


@pytest.mark.parametrize('epochs', [6, 12, 48])
@pytest.mark.parametrize('name', KINDS)
def test_the_rate_takes_the_same_course(name, epochs):
    """At the middle of every fourth of the training, and at its end."""
    plain, other = config(*KINDS[name]), config(*KINDS[name])
    set_length(other, epochs)
    before, after = rates(plain), rates(other)
    assert len(after) == epochs * ITERS
    ends = before[-1], after[-1]
    if name in ('late cosine', 'cosine after a warm-up', 'Poly', 'restarts'):
        assert abs(ends[0] - ends[1]) < 0.15  # in whole epochs
    elif name != 'OneCycle':
        assert ends[1] == pytest.approx(ends[0], rel=0.4)
    else:
        assert ends[1] < 0.1 and max(after) > 0.9
    for part in (0.2, 0.45, 0.7):
        a, b = (found[int(part * len(found))] for found in (before, after))
        assert abs(a - b) < 0.35, part


@pytest.mark.parametrize('epochs', [1, 3, 5, 9, 600])
@pytest.mark.parametrize(
    'name',
    [
        'mmdet::yolox/yolox_s_8xb8-300e_coco.py',
        'mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py',
        'mmpretrain::deit/deit-tiny_4xb256_in1k.py',
        'mmpretrain::mobileone/mobileone-s1_8xb32_in1k.py',
        'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py',
    ],
)
def test_packaged_schedules_run_at_any_length(name, epochs):
    cfg = load_config(name)
    set_length(cfg, epochs)
    found = rates(cfg)
    assert len(found) == epochs * ITERS
    rest = found[found.index(max(found)) :]
    assert all(b <= a + 1e-9 for a, b in zip(rest, rest[1:])), 'it climbs again'
    for hook in cfg.get('custom_hooks', []):
        if 'switch_epoch' in hook and epochs > 1:
            assert 1 <= hook.switch_epoch < epochs
            assert cfg.train_cfg.dynamic_intervals[0][0] < epochs
        if 'schedule' in hook and epochs > 3:
            moments = [recipe['action_epoch'] for recipe in hook.schedule]
            assert moments == sorted(set(moments)) and moments[-1] <= epochs


@pytest.mark.parametrize(('epochs', 'wanted'), [(6, [4, 5]), (4, [2, 3]), (3, [1, 2])])
def test_no_drop_of_the_rate_is_lost(epochs, wanted):
    """The proposal for a standard 1x schedule is half of it."""
    cfg = load_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    set_length(cfg, epochs)
    warmup, steps = cfg.param_scheduler
    assert warmup.end == 500  # iterations
    assert (steps.milestones, steps.end) == (wanted, epochs)


def test_what_the_distillation_counts_moves_too():
    dkd = load_config('kd_mm::kd_cls/cifar100/resnet32x4_resnet8x4_dkd.py')
    set_length(dkd, 24)
    assert dkd.model.links.logits.schedule.warmup == 2.0
    dpk = load_config('kd_mm::kd_cls/cifar100/resnet32x4_resnet8x4_dpk.py')
    set_length(dpk, 12)
    rise, fall = dpk.optim_wrapper.paramwise_cfg.distiller.param_scheduler
    assert (rise.end, fall.begin, fall.end) == (1, 1, 12)
    sokd = load_config('kd_mm::kd/retinanet_r101_r50_sokd_stable.py')
    dafa = sokd.model.links.fpn.stages[0]
    before = dafa.search_epochs, dafa.get('start', 1)
    set_length(sokd, 12)
    assert sokd.model.links.fpn.stages[0].search_epochs == before[0] / 2
    tood = load_config('mmdet::tood/tood_r50_fpn_1x_coco.py')
    set_length(tood, 6)
    assert tood.model.train_cfg.initial_epoch == 2


def test_what_cannot_be_moved_is_refused():
    with pytest.raises(ConfigError, match='--epochs=3: .* does not count epochs'):
        set_length(ConfigDict(train_cfg=dict(max_iters=90)), 3)
    own = dict(type='MyOwnLR', by_epoch=True)
    with pytest.raises(ConfigError, match='param_scheduler.0 MyOwnLR is no scheduler'):
        set_length(config(own), 3)
    cosine = dict(type='CosineAnnealingLR', by_epoch=False, T_max=90000)
    with pytest.raises(ConfigError, match='_scheduler.0 CosineAnn.* counts iterations'):
        set_length(config(cosine), 3)
    tuples = config()
    tuples.param_scheduler = (dict(type='StepLR', step_size=8),)
    set_length(tuples, 12)
    assert tuples.param_scheduler[0].step_size == 4


def test_what_came_before_the_end_still_does():
    for old, new in ((12, 4), (300, 5), (10, 300)):
        moments = [moment(epoch, old, new) for epoch in range(1, old + 1)]
        assert moments == sorted(moments) and moments[-1] == new
        assert moments[0] >= 1 and moments[-2] < new
