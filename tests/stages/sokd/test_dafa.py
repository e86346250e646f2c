"""DAFA in a link: what learns, what does not, and when."""

import copy

import pytest
import torch
import toys
from helpers import (
    blotchy_batches,
    build,
    classification_batch,
    detection_batch,
    distill_cfg,
    losses_of,
    runner,
    train_steps,
)
from mmengine.logging import MessageHub

from kd_mm.criteria import MSELoss
from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair
from kd_mm.stages import DAFA
from kd_mm.stages.sokd.dafa import consistency
from kd_mm.stages.sokd.policy import Draws


def test_a_step_that_did_not_end_leaves_nothing_to_learn_from():
    stage, feature = DAFA(), torch.zeros(2, 4, 8, 8)
    pair = FeaturePair(link='x', student=[feature], teacher=[feature], samples=[],
                       image_size=(64, 64))  # fmt: skip
    stage.setup(pair)
    stage._trial = object()
    stage.eval()(pair)
    assert stage._trial is None


HOSTS = {
    'FitNet': ([dict(type='kd_mm.ConvAdapter')], 'kd_mm.MSELoss'),
    'AT': ([], 'kd_mm.ATLoss'),
    'PKD': ([dict(type='kd_mm.ConvAdapter')], 'kd_mm.PKDLoss'),
    'CWD': ([dict(type='kd_mm.ConvAdapter')], 'kd_mm.CWDLoss'),
}


def links(*, host='FitNet', dam=False, **dafa) -> dict:
    stages, criterion = HOSTS[host]
    stages = [dict(type='kd_mm.DAFA', **{'start': 0, **dafa}), *stages]
    if dam:
        stages.append(dict(type='kd_mm.DAM', top_k=4))
    return dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            stages=stages,
            criterion=dict(type=criterion),
        )
    )


def detector(width=24, **kwargs):
    return build(
        distill_cfg(toys.retinanet(), toys.retinanet(width=width), links(**kwargs))
    )


def stage_of(model) -> DAFA:
    return model.distiller.links['fpn'].stages[0]


@pytest.fixture(autouse=True)
def _fresh_hub():
    hub = MessageHub.get_current_instance()
    hub.runtime_info.clear()
    yield
    hub.runtime_info.clear()


def make_pair(student, teacher):
    return FeaturePair(
        link='x', student=student, teacher=teacher, samples=[], image_size=(48, 64)
    )


def test_every_level_is_augmented_and_none_in_eval_mode():
    teacher = [torch.randn(2, 8, s, s) for s in (12, 6)]
    stage = DAFA(operators=['TranslateX', 'Noise'], start=0)
    stage.setup(make_pair(teacher, list(teacher)))
    stage.policy.split(stage.policy.chi)[1].fill_(0.999)  # both operators run
    pair = stage(make_pair([t.clone() for t in teacher], list(teacher)))
    for old, new in zip(teacher, pair.teacher, strict=True):
        assert not torch.equal(old, new) and not new.requires_grad
    stage.eval()
    pair = stage(make_pair(teacher, list(teacher)))
    assert all(a is b for a, b in zip(pair.teacher, teacher, strict=True))


@pytest.mark.parametrize('k', range(6))
def test_the_slopes_are_the_derivatives_of_the_distance(k):
    """Against finite differences at the levers, where they are differentiable."""
    names = ['ShearY', 'Rotate', 'TranslateX', 'Noise']
    smooth = [
        torch.nn.functional.interpolate(
            torch.randn(2, 4, 3, 3, dtype=torch.float64).float(),
            (size, size),
            mode='bicubic',
        )
        for size in (40, 20)
    ]
    student = [s + 0.3 * torch.randn_like(s) for s in smooth]
    pair = make_pair(student, smooth)
    stage = DAFA(operators=names)
    stage.setup(pair)
    draw = next(d for d in iter(stage.policy.draw, None) if d.index == k)
    levers = draw.levers()
    # bits between off and on; no shift by whole cells, where interpolation has a kink
    levers[1:] = torch.tensor([0.6, 0.7, 0.43, 0.58])

    def distance(values):
        changed = stage._augment(smooth, Draws([draw]), values[None], pair.image_size)
        return consistency(student, changed, pair, MSELoss())

    wanted = levers.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(distance(wanted), wanted)
    for i in range(5):
        step = torch.zeros(5)
        step[i] = 1e-3
        with torch.no_grad():
            rise = 0.0
            for sign in (1, -1):
                values = (levers + sign * step).requires_grad_()
                rise += sign * float(distance(values))
        assert float(slopes[i]) == pytest.approx(rise / 2e-3, rel=0.05, abs=3e-4), i


def test_every_part_of_a_batch_has_a_draw_of_its_own():
    teacher = [torch.randn(5, 8, s, s) for s in (12, 6)]
    stage = DAFA(draws=3, start=0)
    stage.setup(make_pair(teacher, list(teacher)))
    draws = stage.draw()
    parts = zip(*(t.tensor_split(3) for t in teacher), strict=True)
    levers = draws.levers()
    wanted = [
        stage._augment(list(part), Draws([draw]), own[None], (48, 64))
        for part, draw, own in zip(parts, draws, levers, strict=True)
    ]
    found = stage._augment(teacher, draws, levers, (48, 64))
    for level, feature in enumerate(found):
        assert torch.equal(feature, torch.cat([part[level] for part in wanted]))
    # more draws than images, as at the end of an epoch: none is lost on a rank
    few = [t[:2] for t in teacher]
    assert [len(f) for f in stage._augment(few, draws, levers, (48, 64))] == [2, 2]


def test_the_policy_learns_in_the_search_only_and_goes_on_sampling():
    model = detector(search_epochs=2, lr=0.05)
    stage, hub = stage_of(model), MessageHub.get_current_instance()
    seen = []
    for step in range(6):
        for name, value in dict(iter=step, max_iters=6, max_epochs=6).items():
            hub.update_info(name, value)
        train_steps(model, detection_batch(), 1)
        seen.append(stage.policy.chi.clone())
    assert not torch.equal(seen[1], seen[0])  # of the first batch, one step later
    assert not torch.equal(seen[2], seen[1])
    assert torch.equal(seen[3], seen[2]) and torch.equal(seen[5], seen[2])
    assert stage.policy.draws == 6


def test_nothing_is_augmented_before_the_start():
    model = detector(start=2, search_epochs=2, lr=0.05)
    stage, hub = stage_of(model), MessageHub.get_current_instance()
    before, drawn = stage.policy.chi.clone(), []
    for step in range(6):
        for name, value in dict(iter=step, max_iters=6, max_epochs=6).items():
            hub.update_info(name, value)
        log = train_steps(model, detection_batch(), 1)[0]
        drawn.append(stage.policy.draws)
        assert ('kd_fpn_policy_entropy' in log) == (step >= 2)
        if step <= 2:  # of the first batch the policy learns one step later
            assert torch.equal(stage.policy.chi, before)
    assert drawn == [0, 0, 1, 2, 3, 4]
    assert not torch.equal(stage.policy.chi, before)


def test_the_student_trains_as_with_a_fixed_augmentation():
    """The search adds nothing to the student's gradient."""
    batch, gradients = detection_batch(), []
    for epochs in (0, 5):
        model = detector(search_epochs=epochs)
        model.parse_losses(losses_of(model, batch))[0].backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_the_students_optimiser_never_sees_the_policy():
    model = detector()
    chi = stage_of(model).policy.chi
    assert all(p is not chi for p in model.parameters())
    assert all(b is not chi for b in model.buffers())
    assert 'distiller.links.fpn.stages.0._extra_state' in model.state_dict()


@pytest.mark.parametrize('host', list(HOSTS))
@pytest.mark.parametrize('estimator', ['gumbel', 'relax'])
def test_works_with_every_host_and_with_dam(host, estimator):
    width = 24 if host == 'FitNet' else 16
    model = detector(width, host=host, dam=True, estimator=estimator, lr=0.05)
    before = stage_of(model).policy.chi.clone()
    log = train_steps(model, blotchy_batches(1)[0], 3)[-1]
    assert log['loss_kd_fpn'] > 0 and log['loss_kd_fpn_areas'] > 0
    assert not torch.equal(stage_of(model).policy.chi, before)
    assert {'kd_fpn_policy_entropy', 'kd_fpn_policy_distance'} <= set(log)


def test_where_widths_differ_the_criterion_is_the_distance():
    model = detector(24, host='AT', lr=0.05)
    before = stage_of(model).policy.chi.clone()
    log = train_steps(model, blotchy_batches(1)[0], 2)[-1]
    assert log['kd_fpn_policy_distance'] == pytest.approx(log['loss_kd_fpn'], rel=1e-4)
    assert not torch.equal(stage_of(model).policy.chi, before)


def vector_links(**dafa) -> dict:
    link = dict(
        student='neck',
        teacher='neck',
        stages=[
            dict(type='kd_mm.DAFA', start=0, **dafa),
            dict(type='kd_mm.ConvAdapter'),
        ],
        criterion=dict(type='kd_mm.MSELoss'),
    )
    return dict(pooled=link)


def test_vectors_get_the_operators_that_need_no_geometry():
    cfg = distill_cfg(toys.classifier(), toys.classifier(base=16), vector_links())
    model = build(cfg)
    stage = model.distiller.links['pooled'].stages[0]
    assert set(stage.policy.operators) == {'Noise', 'ChannelShuffle', 'ChannelDrop'}
    assert train_steps(model, classification_batch(), 2)[-1]['loss_kd_pooled'] > 0
    cfg['links'] = vector_links(operators=['Rotate', 'Noise'])
    with pytest.raises(ConfigError, match=r'links.pooled.*Rotate need \(N, C, H, W\)'):
        build(cfg)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_the_policy_learns_under_amp(dtype):
    model = detector(lr=0.05)
    data = model.data_preprocessor(copy.deepcopy(detection_batch()), True)
    with torch.autocast('cpu', dtype=dtype):
        losses = model(**data, mode='loss')
    stage = stage_of(model)
    before = stage.policy.chi.clone()
    stage.settle()
    assert stage.policy.chi.isfinite().all()
    assert not torch.equal(stage.policy.chi, before)
    model.parse_losses(losses)[0].backward()


def test_the_teachers_side_must_not_change_behind_it():
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(), links())
    cfg['links']['fpn']['stages'].append(dict(type='kd_mm.ChannelAlign'))
    with pytest.raises(ConfigError, match='last stage that changes the teacher'):
        build(cfg)


@pytest.mark.parametrize(
    'wrong',
    [
        dict(estimator='reinforce'),
        dict(objective='total'),
        dict(operators=['Blur', 'Noise']),
        dict(operators=['Noise']),
        dict(operators=['Noise', 'Noise', 'Cutout']),
        dict(search_epochs=-1),
        dict(start=-1),
        dict(policies=0),
        dict(temperature=0),
        dict(lr=0),
    ],
)
def test_senseless_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=f'DAFA.{next(iter(wrong))}'):
        DAFA(**wrong)


# ---- in a run -----------------------------------------------------------------


def run(folder, *, epochs=2, resume=False, hooks=(), **dafa):
    dafa = {'search_epochs': epochs, **dafa}
    cfg = distill_cfg(
        toys.retinanet(), toys.retinanet(width=24), links(dam=True, **dafa)
    )
    one = runner(cfg, folder, epochs=epochs, resume=resume, custom_hooks=list(hooks))
    one.train()
    return one


@pytest.mark.parametrize('estimator', ['gumbel', 'relax'])
@pytest.mark.parametrize('hooks', [(), (dict(type='EMAHook'),)], ids=['', 'ema'])
def test_resumes_bit_for_bit_in_the_middle_of_the_search(tmp_path, estimator, hooks):
    options = dict(search_epochs=1.9, lr=0.05, estimator=estimator, hooks=hooks)
    whole = run(tmp_path / 'whole', **options).model.state_dict()
    last = tmp_path / 'whole' / 'epoch_1.pth'
    (tmp_path / 'part').mkdir()
    (tmp_path / 'part' / 'last_checkpoint').write_text(str(last))
    resumed = run(tmp_path / 'part', resume=True, **options).model.state_dict()
    assert any('_extra_state' in key for key in whole)
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key


def test_a_new_run_from_an_old_checkpoint_starts_a_new_policy(tmp_path):
    options = dict(search_epochs=1, lr=0.05)
    first = run(tmp_path / 'a', **options)
    assert stage_of(first.model).policy.draws == 8
    cfg = distill_cfg(
        toys.retinanet(), toys.retinanet(width=24), links(dam=True, **options)
    )
    load_from = str(tmp_path / 'a' / 'epoch_2.pth')
    again = runner(cfg, tmp_path / 'b', epochs=1, load_from=load_from)
    again.train()
    assert stage_of(again.model).policy.draws == 4


def test_resuming_with_other_operators_is_refused(tmp_path):
    run(tmp_path, epochs=1)
    with pytest.raises(ConfigError, match='cannot resume.*other operators'):
        run(tmp_path, resume=True, operators=['Noise', 'Cutout'])


def test_the_policys_course_is_kept_for_the_plots(tmp_path):
    run(tmp_path, lr=0.05)
    scalars = MessageHub.get_current_instance().log_scalars
    assert len(scalars['kd_policy/fpn/entropy'].data[0]) == 2
    assert len(scalars['kd_policy/fpn/Rotate/magnitude'].data[0]) == 2
    assert 'kd_policy/fpn/ChannelShuffle/magnitude' not in scalars
