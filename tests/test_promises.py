"""The eight promises of a distilled model, on real detectors and a classifier."""

import copy

import pytest
import query_toys
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
    train_steps,
)
from mmengine.hooks import Hook
from mmengine.runner.activation_checkpointing import (
    turn_on_activation_checkpointing,
)
from mmengine.runner.checkpoint import get_state_dict, load_state_dict

import kd_mm.utils.amp  # noqa: F401  (registers the wrapper)
from kd_mm.errors import ConfigError

MODELS = dict(
    retinanet=(toys.retinanet(), toys.retinanet(width=24, base=16)),
    faster_rcnn=(toys.faster_rcnn(), toys.faster_rcnn(width=24)),
    gfl=(toys.gfl(), toys.atss(width=24)),
    yolox=(toys.yolox(), toys.yolox(widen=0.25)),
    detr=(query_toys.detr(), query_toys.detr(dims=64)),
    mask_rcnn=(toys.mask_rcnn(), toys.mask_rcnn(width=24)),
    classifier=(toys.classifier(), toys.classifier(base=16)),
)
every_model = pytest.mark.parametrize('name', MODELS)


def batch_for(name: str) -> dict:
    return classification_batch() if name == 'classifier' else detection_batch()


@every_model
def test_1_state_dict_is_the_plain_students_plus_distiller(name):
    student, teacher = MODELS[name]
    plain = build(student)
    distilled = build(distill_cfg(student, teacher))
    own = {k for k in distilled.state_dict() if not k.startswith('distiller.')}
    assert own == set(plain.state_dict())
    extra = set(distilled.state_dict()) - own
    assert extra and all(key.startswith('distiller.links.') for key in extra)
    assert isinstance(distilled, type(plain))

    # both ways, strictly where torch is asked to be strict
    plain.load_state_dict({k: v for k, v in distilled.state_dict().items() if k in own})
    distilled.load_state_dict(plain.state_dict(), strict=True)


def test_1_mmengine_loads_plain_weights_without_complaint(caplog):
    student, teacher = MODELS['retinanet']
    distilled = build(distill_cfg(student, teacher))
    plain = build(student, seed=1)
    load_state_dict(distilled, get_state_dict(plain), strict=True)
    for key, value in plain.state_dict().items():
        assert torch.equal(distilled.state_dict()[key], value)


@every_model
def test_2_zero_weights_are_the_baseline_bit_for_bit(name):
    student, teacher = MODELS[name]
    plain = build(student)
    distilled = build(distill_cfg(student, teacher, fitnet(weight=0.0)))
    torch.manual_seed(1)
    logs = train_steps(plain, batch_for(name))
    torch.manual_seed(1)
    logs_kd = train_steps(distilled, batch_for(name))
    for log, log_kd in zip(logs, logs_kd, strict=True):
        assert log_kd.pop('loss_kd_fpn') == 0
        assert log == log_kd
    for key, value in plain.state_dict().items():
        assert torch.equal(value, distilled.state_dict()[key]), key
    for parameter, other in zip(plain.parameters(), distilled.parameters()):
        assert (parameter.grad is None) == (other.grad is None)
        assert parameter.grad is None or torch.equal(parameter.grad, other.grad)


def test_2_zero_weights_do_not_run_the_teacher(monkeypatch):
    model = build(distill_cfg(*MODELS['retinanet'], fitnet(weight=0.0)))
    monkeypatch.setattr(
        model.distiller.teacher.model, 'forward', lambda *a, **k: pytest.fail('ran')
    )
    losses_of(model, batch_for('retinanet'))


@every_model
def test_3_teacher_is_nowhere_and_always_in_eval_mode(name):
    model = build(distill_cfg(*MODELS[name]))
    teacher = model.distiller.teacher.model
    inside = set(teacher.modules())
    assert not inside & set(model.modules())
    assert not {id(p) for p in teacher.parameters()} & {
        id(p) for p in model.parameters()
    }
    assert not any('teacher' in key for key in model.state_dict())
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    model.init_weights()
    model.train()
    train_steps(model, batch_for(name), steps=1)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert not any(module.training for module in inside)
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())


def test_3_teacher_follows_the_student_to_another_dtype_and_device():
    model = build(distill_cfg(*MODELS['retinanet']))
    teacher = model.distiller.teacher.model
    model.double()
    assert {p.dtype for p in teacher.backbone.parameters()} == {torch.float64}
    model.to('meta')
    assert next(teacher.neck.parameters()).is_meta
    # what no tap needs is not carried along
    assert not next(teacher.bbox_head.parameters()).is_meta


def test_3_copies_share_the_teacher():
    model = build(distill_cfg(*MODELS['retinanet']))
    clone = copy.deepcopy(model)
    assert clone.distiller.teacher is model.distiller.teacher
    assert train_steps(clone, batch_for('retinanet')) == train_steps(
        model, batch_for('retinanet')
    )


def test_3_class_count_check_does_not_meet_the_teacher(tmp_path):
    """NumClassCheckHook walks all modules and stops at an 80-class teacher."""
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(classes=80))
    runner(
        cfg, tmp_path, epochs=1, custom_hooks=[dict(type='NumClassCheckHook')]
    ).train()


@every_model
def test_4_validation_is_the_plain_student(name):
    student, teacher = MODELS[name]
    plain = build(student).eval()
    model = build(distill_cfg(student, teacher)).eval()
    model.distiller.teacher.model = None  # whoever asks for it fails
    batch = batch_for(name)
    with torch.no_grad():
        ours = model.val_step(copy.deepcopy(batch))
        theirs = plain.val_step(copy.deepcopy(batch))
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert sum(hooks) == 0
    for one, other in zip(ours, theirs, strict=True):
        if name == 'classifier':
            assert torch.equal(one.pred_score, other.pred_score)
        else:
            assert torch.equal(one.pred_instances.scores, other.pred_instances.scores)
            assert torch.equal(one.pred_instances.bboxes, other.pred_instances.bboxes)


class _Interrupt(Hook):
    """Somebody presses Ctrl-C in the second epoch."""

    def before_train_epoch(self, runner):
        if runner.epoch == 1:
            raise KeyboardInterrupt


def _state(run) -> dict:
    return {k: v.clone() for k, v in run.model.state_dict().items()}


@pytest.mark.parametrize('ema', [False, True])
def test_5_a_resumed_run_equals_an_uninterrupted_one(tmp_path, ema):
    links = fitnet(schedule=dict(warmup=1, decay=2, shape='cosine'))
    cfg = distill_cfg(*MODELS['retinanet'], links)
    extra = dict(custom_hooks=[dict(type='EMAHook')]) if ema else {}
    whole = runner(cfg, tmp_path / 'whole', epochs=3, **extra)
    whole.train()

    first = runner(cfg, tmp_path / 'parts', epochs=3, **extra)
    first.register_hook(_Interrupt())
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = runner(cfg, tmp_path / 'parts', epochs=3, seed=0, resume=True, **extra)
    second.train()
    for key, value in _state(whole).items():
        assert torch.equal(value, _state(second)[key]), key


def test_5_resuming_with_other_links_is_refused(tmp_path):
    runner(distill_cfg(*MODELS['retinanet']), tmp_path, epochs=1).train()
    links = fitnet()
    links['other'] = links.pop('fpn')
    again = runner(distill_cfg(*MODELS['retinanet'], links), tmp_path, resume=True)
    with pytest.raises(ConfigError, match='other links'):
        again.train()


def test_6_amp_keeps_the_criterion_in_fp32():
    model = build(distill_cfg(*MODELS['retinanet']))
    seen = []
    model.distiller.links['fpn'].criterion.register_forward_hook(
        lambda _, __, out: seen.append((out.dtype, torch.is_autocast_cpu_enabled()))
    )
    adapted = []
    model.distiller.links['fpn'].stages[0].register_forward_hook(
        lambda _, __, pair: adapted.extend(pair.student)
    )
    data = model.data_preprocessor(batch_for('retinanet'), True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = model(**data, mode='loss')
    assert seen == [(torch.float32, True)]
    assert {t.dtype for t in adapted} == {torch.bfloat16}
    model.parse_losses(losses)[0].backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for p in model.distiller.parameters()
    )


@pytest.mark.parametrize(
    'extra',
    [
        dict(custom_hooks=[dict(type='EMAHook', momentum=0.1)]),
        dict(optim_wrapper=dict(accumulative_counts=2)),
        dict(optim_wrapper=dict(type='CPUAmpOptimWrapper')),
    ],
    ids=['ema', 'accumulation', 'amp'],
)
def test_6_trains_with(tmp_path, extra):
    run = runner(distill_cfg(*MODELS['retinanet']), tmp_path, epochs=2, **extra)
    before = copy.deepcopy(run.model.state_dict())
    run.train()
    for key in (
        'neck.fpn_convs.0.conv.weight',
        'distiller.links.fpn.stages.0.adapters.0.0.conv.weight',
    ):
        assert not torch.equal(before[key], run.model.state_dict()[key])


def test_6_a_checkpointed_tap_is_refused_and_its_container_works():
    student, teacher = MODELS['retinanet']
    links = dict(
        body=dict(
            student='backbone.layer3.0',
            teacher='backbone.layer3.0',
            stages=[dict(type='kd_mm.ConvAdapter')],
            criterion=dict(type='kd_mm.MSELoss'),
        )
    )
    inner = build(distill_cfg(student, teacher, links))
    turn_on_activation_checkpointing(inner, ['backbone.layer3'])
    with pytest.raises(ConfigError, match='activation checkpointing'):
        losses_of(inner, batch_for('retinanet'))
    outer = build(distill_cfg(student, teacher))
    turn_on_activation_checkpointing(outer, ['backbone.layer3'])
    plain = build(distill_cfg(student, teacher))
    for one, other in zip(
        train_steps(outer, batch_for('retinanet')),
        train_steps(plain, batch_for('retinanet')),
    ):
        assert one == pytest.approx(other, rel=1e-5)


def test_6_every_parameter_of_the_distiller_gets_a_gradient():
    """What DDP needs without find_unused_parameters."""
    model = build(distill_cfg(*MODELS['faster_rcnn']))
    model.parse_losses(losses_of(model, batch_for('faster_rcnn')))[0].backward()
    assert all(p.grad is not None for p in model.distiller.parameters())


@every_model
def test_7_losses_keep_their_names_and_links_have_their_own(name):
    student, teacher = MODELS[name]
    plain = losses_of(build(student), batch_for(name))
    model = build(distill_cfg(student, teacher))
    losses = losses_of(model, batch_for(name))
    assert set(losses) - set(plain) == {'loss_kd_fpn'}
    assert float(losses['loss_kd_fpn']) > 0
    model.parse_losses(losses)[0].backward()
    second = losses_of(model, batch_for(name))
    share = second['kd_fpn_gradient_share']
    assert 0 < float(share) < 1 and not share.requires_grad


@pytest.mark.parametrize('dtype', [None, 'bf16'])
def test_7_teachers_metric_is_printed_once(tmp_path, dtype):
    wanted = dict(validate=True, dtype=dtype)
    model = distill_cfg(*MODELS['retinanet'], teacher_kwargs=wanted)
    run = runner(model, tmp_path, epochs=2, log_level='INFO')
    run.train()
    teacher = run.model.distiller.teacher
    types = {p.dtype for p in teacher.model.parameters()}
    assert types == {teacher.dtype or torch.float32}
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert log.count('the teacher on the validation set: images 4') == 1


TEACHER = toys.retinanet(width=24, base=16)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(teacher=dict(config=TEACHER)), 'allow_random'),
        (dict(teacher=dict(config='nowhere.py', allow_random=True)), 'does not exist'),
        (dict(teacher=dict(config=TEACHER, checkpoint='no.pth')), 'does not exist'),
        (dict(teacher=dict(config=TEACHER, chekpiont='x')), 'nearest: checkpoint'),
        (dict(teacher=dict(config=TEACHER, allow_random=True, dtype='int8')), 'bf16'),
        (dict(links={}), 'links is empty'),
        (dict(links=dict(my_loss=fitnet()['fpn'])), 'without "loss"'),
        (dict(inherit=['nek']), 'nearest: neck'),
    ],
)
def test_8_what_is_wrong_is_said_at_build_time(change, message):
    cfg = distill_cfg(toys.retinanet(), TEACHER) | change
    with pytest.raises(ConfigError, match=message):
        build(cfg)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(student='nek'), r"links.fpn|student tap 'nek'.*nearest: neck"),
        (dict(student='backbone.layer9'), 'nearest: backbone.layer'),
        (dict(levels=[0, 7]), r'links.fpn.*level 7 is out of range'),
        (dict(levels=dict(student=[0], teacher=[0, 1])), r'links.fpn.*1 levels'),
        (dict(stages=[]), r'links.fpn.*\(3, 16, 16, 16\).*\(3, 24, 16, 16\).*Conv'),
        (dict(teacher='backbone'), r'links.fpn: student .*5 levels.*4'),
        (dict(stages=[dict(type='kd_mm.ConvAdaptor')]), 'nearest: kd_mm.ConvAdapter'),
        (
            dict(stages=[dict(type='kd_mm.ConvAdapter', depth=2)]),
            r'links.fpn.stages\[0\] ConvAdapter.depth is unknown',
        ),
        (dict(criterion=dict(type='mmdet.L1Loss')), 'not a criterion of kd_mm'),
        (dict(criterium=dict(type='kd_mm.MSELoss')), 'nearest: criterion'),
        (dict(schedule=dict(stop=1, warmup=2)), 'links.fpn.*warmup'),
        (dict(schedule=dict(end=1)), 'links.fpn.schedule.end is unknown'),
        (dict(student='neck.'), 'not a tap'),
        (dict(student='neck[9]'), 'index 9'),
    ],
)
def test_8_what_is_wrong_with_a_link_names_it(change, message):
    links = fitnet()
    links['fpn'].update(change)
    with pytest.raises(ConfigError, match=message):
        build(distill_cfg(toys.retinanet(), TEACHER, links))
