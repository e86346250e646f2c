"""The distiller's own optimiser."""

import pytest
import torch
import toys
from helpers import build, detection_batch, distill_cfg, fitnet, losses_of, runner
from mmengine.hooks import Hook
from mmengine.optim import (
    ConstantMomentum,
    DefaultOptimWrapperConstructor,
    OptimWrapper,
    OptimWrapperDict,
    build_optim_wrapper,
)
from mmengine.runner import Runner

import kd_mm.utils.amp  # noqa: F401  registers CPUAmpOptimWrapper
from kd_mm.errors import ConfigError
from kd_mm.optimizers import clipped, fusible, untrained
from kd_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS
from kd_mm.stages import ConvAdapter

ADAMW = dict(type='AdamW', lr=1e-3, betas=(0.9, 0.95), weight_decay=1e-2)
NAME = 'kd_mm.DistillerOptimWrapperConstructor'


def wrapper_cfg(**kwargs) -> dict:
    return dict(
        type='OptimWrapper',
        constructor=NAME,
        optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4),
        paramwise_cfg=dict(norm_decay_mult=0.0, distiller=ADAMW),
        **kwargs,
    )


def test_each_side_takes_the_step_of_its_optimiser():
    model, twin = (build(distill_cfg(toys.retinanet(), toys.retinanet())) for _ in '12')
    wrapper = build_optim_wrapper(model, wrapper_cfg())
    named = dict(twin.named_parameters())
    norms = {
        f'{name}.{key}' if name else key
        for name, module in twin.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
        for key, _ in module.named_parameters(recurse=False)
    }
    student = [n for n in named if not n.startswith('distiller.')]
    sgd = torch.optim.SGD(
        [
            dict(params=[named[n]], weight_decay=0.0 if n in norms else 1e-4)
            for n in student
        ],
        lr=0.01,
        momentum=0.9,
    )
    ours = [p for n, p in named.items() if n.startswith('distiller.')]
    adamw = torch.optim.AdamW(ours, lr=1e-3, betas=(0.9, 0.95), weight_decay=1e-2)
    for _ in range(2):
        wrapper.update_params(
            model.parse_losses(losses_of(model, detection_batch()))[0]
        )
        for optimizer in (sgd, adamw):
            optimizer.zero_grad()
        twin.parse_losses(losses_of(twin, detection_batch()))[0].backward()
        for optimizer in (sgd, adamw):
            optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, named[name], msg=name)
    assert list(model.state_dict()) == list(twin.state_dict())


def test_one_pass_over_the_parameters_where_there_is_one():
    parameter = torch.nn.Parameter(torch.zeros(3))
    try:
        torch.optim.AdamW([parameter], fused=True)
        there = True
    except RuntimeError:  # older PyTorch on a CPU
        there = False
    assert fusible(ADAMW, parameter) == there
    assert not fusible(dict(ADAMW, fused=False), parameter)
    assert not fusible(dict(ADAMW, foreach=True), parameter)
    assert not fusible(dict(type='Adadelta', lr=1.0), parameter)  # has none
    model = build(distill_cfg(toys.retinanet(), toys.retinanet()))
    pair = build_optim_wrapper(model, wrapper_cfg()).optimizer
    fused = [group.get('fused') for group in pair.both[1].param_groups]
    assert all(value is True for value in fused) == there


@pytest.mark.parametrize('kind', ['OptimWrapper', 'CPUAmpOptimWrapper'])
def test_runs_schedules_and_resumes_bit_for_bit(tmp_path, kind):
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(width=24))
    scheduler = [dict(type='MultiStepLR', milestones=[1], gamma=0.1)]

    def run(folder, **kwargs):
        optim_wrapper = dict(wrapper_cfg(clip_grad=dict(max_norm=5.0)), type=kind)
        optim_wrapper['_delete_'] = True
        one = runner(
            cfg,
            folder,
            optim_wrapper=optim_wrapper,
            param_scheduler=scheduler,
            **kwargs,
        )
        one.train()
        return one

    whole = run(tmp_path / 'whole')
    assert isinstance(whole, Runner)
    rates = {group['lr'] for group in whole.optim_wrapper.optimizer.param_groups}
    assert sorted(rates) == pytest.approx([1e-4, 1e-3])
    (tmp_path / 'part').mkdir()
    last = tmp_path / 'part' / 'last_checkpoint'
    last.write_text(str(tmp_path / 'whole' / 'epoch_1.pth'))
    part = run(tmp_path / 'part', resume=True)
    got = part.model.state_dict()
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, got[key]), key


def test_resuming_from_one_optimiser_is_refused(tmp_path):
    cfg = distill_cfg(toys.retinanet(), toys.retinanet())
    runner(cfg, tmp_path, epochs=1).train()
    optim_wrapper = dict(wrapper_cfg(), _delete_=True)
    again = runner(cfg, tmp_path, resume=True, optim_wrapper=optim_wrapper)
    with pytest.raises(ConfigError, match='one optimiser for everything'):
        again.train()


def test_what_makes_no_sense_is_refused():
    model = build(distill_cfg(toys.retinanet(), toys.retinanet()))
    with pytest.raises(ConfigError, match='paramwise_cfg.distiller'):
        build_optim_wrapper(model, dict(wrapper_cfg(), paramwise_cfg={}))
    plain = build(toys.retinanet())
    with pytest.raises(ConfigError, match='no link'):
        build_optim_wrapper(plain, wrapper_cfg())


@pytest.mark.parametrize('first', ['SGD', 'AdamW'])
@pytest.mark.parametrize('second', ['SGD', 'AdamW'])
def test_a_momentum_schedule_reaches_both(first, second):
    """MMEngine's momentum schedulers ask for `defaults`; Adam's momentum is a beta."""
    settings = dict(SGD=dict(momentum=0.8), AdamW=dict(betas=(0.8, 0.95)))
    cfg = wrapper_cfg()
    cfg['optimizer'] = dict(type=first, lr=0.01, **settings[first])
    cfg['paramwise_cfg'] = dict(
        distiller=dict(type=second, lr=0.01, **settings[second])
    )
    model = build(distill_cfg(toys.retinanet(), toys.retinanet()))
    wrapper = build_optim_wrapper(model, cfg)
    schedule = ConstantMomentum(wrapper.optimizer, factor=0.5, end=9)
    assert {group['momentum'] for group in wrapper.optimizer.param_groups} == {0.4}
    for _ in range(2):
        loss, _ = model.parse_losses(losses_of(model, detection_batch()))
        wrapper.update_params(loss)
        schedule.step()
    for kind, optimizer in zip((first, second), wrapper.optimizer.both, strict=True):
        for group in optimizer.param_groups:
            assert group['momentum'] == 0.4
            assert kind == 'SGD' or group['betas'] == (0.4, 0.95)


def test_the_distiller_follows_its_own_schedule(tmp_path):
    """And the student's schedulers leave its rate alone, also in a resumed run."""
    own = [
        dict(type='LinearLR', start_factor=0.1, end=1, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=1, eta_min=1e-5,
             convert_to_iter_based=True),
    ]  # fmt: skip
    distiller = dict(
        ADAMW, param_scheduler=own, paramwise_cfg=dict(flat_decay_mult=0.0)
    )
    optim = wrapper_cfg()
    optim['paramwise_cfg'] = dict(distiller=distiller)

    def training(folder, **kwargs):
        cfg = distill_cfg(
            toys.retinanet(),
            toys.retinanet(),
            dict(fpn=dict(
                student='neck', teacher='neck',
                stages=[dict(type='kd_mm.ConvAdapter', norm_cfg=dict(type='BN'),
                             act_last=True)],
                criterion=dict(type='kd_mm.MSELoss'))),
        )  # fmt: skip
        one = runner(
            cfg,
            folder,
            optim_wrapper=optim,
            param_scheduler=[
                dict(type='MultiStepLR', milestones=[1], gamma=0.1),
                dict(type='LinearMomentum', start_factor=0.1, end=2),
            ],
            **kwargs,
        )
        rates = []

        class Watch(Hook):
            priority = 'LOWEST'

            def before_train_iter(self, runner, batch_idx, data_batch=None):
                first, second = runner.optim_wrapper.optimizer.both
                rates.append((first.param_groups[0]['lr'],
                              second.param_groups[0]['lr']))  # fmt: skip
                momenta = {g['momentum'] for g in second.param_groups}
                assert momenta == {ADAMW.get('betas', (0.9,))[0]}

        one.register_hook(Watch())
        one.train()
        return one, rates

    one, rates = training(tmp_path / 'whole', epochs=3)
    steps = len(rates) // 3
    assert [r for r, _ in rates] == pytest.approx([0.01] * steps + [0.001] * 2 * steps)
    mine = [r for _, r in rates]
    assert mine[0] == pytest.approx(1e-4) and max(mine) == pytest.approx(1e-3)
    assert mine[-1] < 0.3 * max(mine) and mine[-1] > 1e-5
    second = one.optim_wrapper.optimizer.both[1]
    for group in second.param_groups:
        flat = all(p.ndim == 1 for p in group['params'])
        assert group['weight_decay'] == (0.0 if flat else 1e-2)
    assert len(one.param_schedulers) == 4
    _, again = training(
        tmp_path / 'again',
        epochs=3,
        load_from=str(tmp_path / 'whole/epoch_2.pth'),
        resume=True,
    )
    assert again == rates[2 * steps :]


def by_parts(model, *more) -> OptimWrapper:
    """As constructors do that give each part of a detector a rate of its own."""
    parts = (model.backbone, model.neck, model.bbox_head, *more)
    groups = [dict(params=list(part.parameters())) for part in parts]
    return OptimWrapper(torch.optim.SGD(groups, lr=0.01))


@OPTIM_WRAPPER_CONSTRUCTORS.register_module(force=True)
class ByParts(DefaultOptimWrapperConstructor):
    """Forgets what is no part of a plain detector."""

    def __call__(self, model):
        return by_parts(model)


def test_adapters_that_no_optimiser_has_are_told(tmp_path):
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(width=24))
    run = runner(cfg, tmp_path, optim_wrapper=dict(constructor='kd_mm.ByParts'))
    with pytest.raises(
        ConfigError, match=r'links.fpn: (\d+) of its \1 .*optim_wrapper.constructor'
    ):
        run.train()


class SomebodysAdapter(ConvAdapter):
    """May train itself."""


def test_a_share_beside_clipped_gradients_is_told():
    clip = dict(max_norm=1.0)
    for share, kind, said in ((0.5, 'SGD', 1), (None, 'SGD', 0), (0.5, 'AdamW', 0)):
        links = fitnet(share=share) if share else fitnet()
        model = build(distill_cfg(toys.retinanet(), toys.retinanet(width=24), links))
        optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.01)
        text = clipped(OptimWrapper(optimizer, clip_grad=clip), model)
        assert ('links.fpn.share=0.5' in text and 'max_norm' in text) == said
        assert clipped(OptimWrapper(optimizer), model) == ''


def test_what_learns_by_any_optimiser_is_no_fault():
    model = build(distill_cfg(toys.retinanet(), toys.retinanet(width=24)))
    link = model.distiller.links.fpn
    adapters = OptimWrapper(torch.optim.SGD(link.parameters(), lr=0.01))
    both = OptimWrapperDict(student=by_parts(model), adapters=adapters)
    assert not [*untrained(both, model)]
    with pytest.raises(ConfigError, match='links.fpn'):
        [*untrained(OptimWrapperDict(student=by_parts(model)), model)]
    copies = [p.detach().clone() for p in model.parameters()]
    assert not [*untrained(OptimWrapper(torch.optim.SGD(copies, lr=0.01)), model)]
    first = next(m for m in link.modules() if isinstance(m, torch.nn.Conv2d))
    (text,) = untrained(by_parts(model, first), model)
    assert 'links.fpn' in text and 'never learn' in text
    link.stages[0].__class__ = SomebodysAdapter
    (text,) = untrained(by_parts(model), model)
    assert 'links.fpn' in text
    link.requires_grad_(False)
    assert not [*untrained(by_parts(model), model)]
