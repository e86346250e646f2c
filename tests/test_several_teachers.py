"""Several teachers, one that moves, the student itself: every promise holds again."""

import copy

import pytest
import torch
import torch.nn.functional as F
import toys
from helpers import (
    build,
    classification_batch,
    detection_batch,
    distill_cfg,
    losses_of,
    runner,
    train_steps,
)
from mmengine.hooks import Hook

from kd_mm.errors import ConfigError
from kd_mm.hooks import distill_hook
from kd_mm.stages import MergeTeachers

SP = dict(type='kd_mm.SPLoss', weight=100.0)
A, B = toys.retinanet(width=24), toys.retinanet(width=16, base=16)


def guide(config, **options) -> dict:
    return dict(config=config, allow_random=True, **options)


def link(teacher, student='neck', criterion=SP, stages=(), **kwargs) -> dict:
    own = dict(student=student, teacher=teacher, criterion=criterion, **kwargs)
    return own | dict(stages=list(stages))


def taught(teacher, links, student=None, **kwargs):
    cfg = distill_cfg(student or toys.retinanet(), A, links, **kwargs)
    return cfg | dict(teacher=teacher)


def several(**options) -> dict:
    teacher = dict(a=guide(A, **options), b=guide(B))
    return taught(
        teacher, dict(x=link('a:neck'), y=link('b:bbox_head[0]', 'bbox_head[0]'))
    )


MOVING = {
    'several': several(),
    'ema': taught('ema', dict(x=link('neck'))),
    'self': taught('self', dict(x=link('backbone.layer4', 'backbone.layer3'))),
    'mixed': taught(
        dict(a=guide(A), mean=dict(config='ema', momentum=0.1), me='self'),
        dict(
            x=link('a:neck'),
            y=link('mean:neck'),
            z=link('me:neck', 'backbone.layer2', levels=dict(student=[0], teacher=[0])),
        ),
    ),
}  # fmt: skip
every = pytest.mark.parametrize('name', MOVING)


@every
def test_promises_of_state_weights_and_gradients(name):
    cfg, plain = MOVING[name], build(toys.retinanet())
    model = build(cfg)
    own = {k: v for k, v in model.state_dict().items() if 'distiller.' not in k}
    assert own.keys() == plain.state_dict().keys()
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in own.items())
    model.load_state_dict(plain.state_dict())  # strictly
    theirs = {id(p) for g in model.distiller.teachers.guides.values()
              for p in g.model.parameters()}  # fmt: skip
    assert not theirs & {id(p) for p in model.parameters()}
    losses = losses_of(model, detection_batch())
    for key in (k for k in losses if k.startswith('loss_kd_')):
        assert float(losses[key]) >= 0
    sum(v for k, v in losses.items() if 'loss_kd' in k).backward()
    frozen = copy.deepcopy(cfg)
    for one in frozen['links'].values():
        one['criterion'] = dict(SP, weight=0.0)
    off = build(frozen)
    torch.manual_seed(1)
    logs = train_steps(plain, detection_batch())
    torch.manual_seed(1)
    zero = train_steps(off, detection_batch())
    assert [{k: v for k, v in log.items() if '_kd_' not in k} for log in zero] == logs
    state = off.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in plain.state_dict().items())
    clone = copy.deepcopy(model)
    assert clone.distiller.teachers is model.distiller.teachers


def test_each_teacher_gives_what_it_gives_alone_and_runs_to_its_own_last_tap():
    both = build(several(dtype='bf16'))
    alone = {
        'x': build(taught(guide(A, dtype='bf16'), dict(x=link('neck')))),
        'y': build(
            taught(guide(B), dict(y=link('bbox_head[0]', 'bbox_head[0]')))
        ),
    }  # fmt: skip
    guides = both.distiller.teachers.guides
    for name, own in zip('ab', alone.values()):
        own.distiller.teacher.model.load_state_dict(guides[name].model.state_dict())
    guides['a'].model.bbox_head.forward = lambda *_: pytest.fail('ran too far')
    losses = losses_of(both, detection_batch())
    for name, own in alone.items():
        expected = losses_of(own, detection_batch())[f'loss_kd_{name}']
        assert torch.equal(losses[f'loss_kd_{name}'], expected)
    types = [next(g.model.neck.parameters()).dtype for g in guides.values()]
    assert types == [torch.bfloat16, torch.float32]


KD = dict(type='kd_mm.KDLoss')


@pytest.mark.parametrize('by', ['mean', 'certain'])
def test_logits_of_several_are_merged(by):
    teacher = dict(a=guide(toys.classifier(base=16)), b=guide(toys.classifier(base=4)))
    merge = dict(type='kd_mm.MergeTeachers', by=by)
    own = link(['a:head.fc', 'b:head.fc'], 'head.fc', KD, [merge])
    model = build(taught(teacher, dict(x=own), toys.classifier()))
    data = model.data_preprocessor(classification_batch(), True)
    with torch.no_grad():
        a, b = (
            g.model(data['inputs'], mode='tensor')
            for g in model.distiller.teachers.guides.values()
        )
        student = model.train()(data['inputs'], mode='tensor')
    expected = (a + b) / 2
    if by == 'certain':
        sure = a.softmax(1).amax(1) > b.softmax(1).amax(1)
        expected = torch.where(sure[:, None], a, b)
    p, q = (expected / 4).softmax(1), (student / 4).log_softmax(1)
    expected = 16 * F.kl_div(q, p, reduction='batchmean')
    got = model(**data, mode='loss')['loss_kd_x']
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-6)


def test_the_more_certain_of_two_anchors_and_sigmoids():
    a, b = torch.randn(2, 3, 2 * 4, 5, 6)
    merged = MergeTeachers(by='certain', sigmoid=True, classes=4)._merge(
        torch.stack([a, b])
    )
    for anchor in (slice(0, 4), slice(4, 8)):
        sure = a[:, anchor].amax(1, keepdim=True) > b[:, anchor].amax(1, keepdim=True)
        expected = torch.where(sure, a[:, anchor], b[:, anchor])
        assert torch.equal(merged[:, anchor], expected)


TWO = dict(a=guide(A), b=guide(B))


@pytest.mark.parametrize(
    ('teacher', 'links', 'match'),
    [
        (TWO, dict(x=link('neck')), "x.teacher 'neck' names no teacher; .*a:neck"),
        (TWO, dict(x=link('c:neck')), "'c:neck' names no teacher; nearest: .*a:neck"),
        (TWO, dict(x=link('a:neck')), 'teacher.b: no link reads it'),
        (guide(A), dict(x=link('a:neck')), 'names no teacher; there is one'),
        (TWO, dict(x=link(['a:neck', 'b:neck'])), 'links.x.*reads 2 teachers .*Merge'),
        (TWO, dict(x=link('a:nekc'), y=link('b:neck')), "links.x: .*a:nekc.*nearest"),
        (TWO | dict(b=dict(config=B)), dict(x=link('a:neck')), 'r.b: .*allow_random'),
        (TWO | dict(b=dict(confg=B)), dict(x=link('a:neck')), 'teacher.b.confg'),
        (TWO, 'auto', 'needs one teacher .* a, b'),
        ('mean', dict(x=link('neck')), "teacher='mean': expected a dict, 'ema'"),
        (dict(config='ema', momentum=1.0), dict(x=link('neck')), 'teacher.momentum'),
        (dict(config='ema', dtype='bf16'), dict(x=link('neck')), 'teacher.dtype'),
        (dict(config='self', scale=2.0), dict(x=link('neck')), 'teacher.scale'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(teacher, links, match):
    with pytest.raises(ConfigError, match=match):
        build(taught(teacher, links))


def test_the_average_follows_its_formula():
    model = build(taught(dict(config='ema', momentum=0.4), dict(x=link('neck'))))
    teacher, batch = model.distiller.teacher.model, detection_batch()
    name = 'neck.fpn_convs.0.conv.weight'
    weight, own = (m.get_parameter(name) for m in (model, teacher))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = weight.detach().clone()
    for step in range(1, 5):
        expected += (weight.detach() - expected) * max(0.4, 1 / step)
        for _ in range(2):  # the second batch of an accumulated gradient
            losses = losses_of(model, batch)
            torch.testing.assert_close(own, expected)
            model.parse_losses(losses)[0].backward()
        assert not own.requires_grad and not teacher.training
        optimizer.step()
    keys = [k for k in model.state_dict() if k.startswith('distiller.average.ema.')]
    assert len(keys) == len(teacher.state_dict()) + 1


def test_the_student_teaches_itself_without_its_gradient():
    cfg = MOVING['self']
    model = build(cfg)
    seen = []
    criterion = model.distiller.links['x'].criterion
    criterion.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    outputs = []
    model.backbone.layer4.register_forward_hook(lambda *a: outputs.append(a[2]))
    loss = losses_of(model, detection_batch())['loss_kd_x']
    assert torch.equal(seen[0].teacher[0], outputs[0])
    assert not seen[0].teacher[0].requires_grad
    loss.backward()
    assert model.backbone.layer4[0].conv1.weight.grad is None
    assert model.backbone.layer3[0].conv1.weight.grad is not None


class Interrupt(Hook):
    def before_train_epoch(self, runner):
        if runner.epoch == 1:
            raise KeyboardInterrupt


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = runner(MOVING['mixed'], tmp_path / 'whole', epochs=2)
    whole.train()
    first = runner(MOVING['mixed'], tmp_path / 'parts', epochs=2)
    first.register_hook(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = runner(MOVING['mixed'], tmp_path / 'parts', epochs=2, resume=True)
    second.train()
    expected, got = (r.model.state_dict() for r in (whole, second))
    assert any('average.mean' in key for key in got)
    assert all(torch.equal(value, got[key]) for key, value in expected.items())
    anew = runner(
        MOVING['mixed'], tmp_path / 'new', epochs=1,
        load_from=str(tmp_path / 'parts/epoch_2.pth'),
    )  # fmt: skip
    anew.train()
    assert int(anew.model.state_dict()['distiller.average.mean.steps']) == 4


def test_each_is_validated_by_name(tmp_path):
    cfg = several(validate=True)
    run = runner(cfg, tmp_path, epochs=1, log_level='INFO')
    run.train()
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert log.count('the teacher a on the validation set: images 4') == 1
    assert 'teacher a: ' in log or 'a: RetinaNet' in log


def test_a_teacher_that_finds_nothing_is_not_passed_over(tmp_path, monkeypatch):
    """MMDetection's metrics are empty then."""
    monkeypatch.setattr(distill_hook, 'evaluate', lambda *_: {})
    runner(several(validate=True), tmp_path, epochs=1, log_level='INFO').train()
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'WARNING - kd_mm: the teacher a finds nothing at all' in log


def test_born_again_from_its_own_checkpoint(tmp_path):
    torch.save(build(toys.retinanet(), seed=3).state_dict(), path := tmp_path / 's.pth')
    teacher = dict(config=toys.retinanet(), checkpoint=path)
    logs = train_steps(
        build(taught(teacher, dict(x=link('neck')))), detection_batch(), 3
    )
    assert logs[0]['loss_kd_x'] > 0
