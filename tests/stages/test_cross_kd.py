"""CrossKD: the student's feature through the rest of the teacher."""

import copy
import pickle

import pytest
import torch
import toys
from conftest import ROOT
from helpers import build, detection_batch, distill_cfg, losses_of, train_steps
from mmengine.config import Config

from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair
from kd_mm.stages import CrossKD, MatchMoments
from kd_mm.stages.match_moments import match_moments


def crosskd(*branches, last, taps=None, **criterion) -> dict:
    """One link over a head's branches: tap in front of an activation, then the rest."""
    taps = taps or [f'bbox_head.{name}.0.activate@input' for name, *_ in branches]
    rest = [
        [f'bbox_head.{name}.0.activate', f'bbox_head.{name}[1:]', *steps]
        for name, *steps in branches
    ]
    return dict(
        head=dict(
            student=taps,
            teacher=taps,
            stages=[
                dict(type='kd_mm.MatchMoments'),
                dict(type='kd_mm.CrossKD', rest=last or rest),
            ],
            criterion=dict(
                type='kd_mm.HeadLoss',
                classes=dict(type='kd_mm.QFLLoss'),
                **criterion,
            ),
        )
    )


DELTAS = dict(type='kd_mm.BoxLoss', form='deltas')
QFL = dict(type='kd_mm.QFLLoss')


def per_level(head, cls, reg, levels, *, inner):
    """Taps and chains of heads in which every level has its own modules."""
    return dict(
        taps=[
            f'bbox_head.{name}.{level}.0.activate@input'
            for name in inner
            for level in range(levels)
        ],
        last=[
            [
                f'bbox_head.{name}.{{level}}.0.activate',
                f'bbox_head.{name}.{{level}}[1:]',
                f'bbox_head.{end}.{{level}}',
            ]
            for name, end in zip(inner, (cls, reg))
        ],
    )


def two_convs(model):
    model.bbox_head.stacked_convs = 2
    return model


def link_of(kind: str) -> dict:
    """The link of a head, as docs/methods.md lists them."""
    c, r = 'cls_convs', 'reg_convs'
    if kind == 'retinanet':
        branches = (c, 'bbox_head.retina_cls'), (r, 'bbox_head.retina_reg')
        return crosskd(*branches, last=None, boxes=DELTAS)
    if kind == 'fcos':
        branches = (
            (c, 'bbox_head.conv_cls'),
            (r, 'bbox_head.conv_reg', 'bbox_head.scales.{level}'),
            (r, 'bbox_head.conv_centerness'),
        )
        boxes = dict(type='kd_mm.BoxLoss', form='log_distances')
        return crosskd(*branches, last=None, boxes=boxes, centres=QFL)
    if kind == 'atss':
        branches = (
            (c, 'bbox_head.atss_cls'),
            (r, 'bbox_head.atss_reg', 'bbox_head.scales.{level}'),
            (r, 'bbox_head.atss_centerness'),
        )
        boxes = dict(DELTAS, stds=[0.1, 0.1, 0.2, 0.2])
        return crosskd(*branches, last=None, boxes=boxes, centres=QFL)
    if kind == 'gfl':
        branches = (
            (c, 'bbox_head.gfl_cls'),
            (r, 'bbox_head.gfl_reg', 'bbox_head.scales.{level}'),
        )
        return crosskd(*branches, last=None, boxes=dict(type='kd_mm.LDLoss', tau=1.0))
    if kind == 'rtmdet':
        names = per_level('', 'rtm_cls', 'rtm_reg', 3, inner=(c, r))
        boxes = dict(type='kd_mm.BoxLoss', form='distances')
        return crosskd(boxes=boxes, **names)
    names = per_level(
        '',
        'multi_level_conv_cls',
        'multi_level_conv_reg',
        3,
        inner=('multi_level_cls_convs', 'multi_level_reg_convs'),
    )
    return crosskd(boxes=DELTAS, **names)


LAST = dict(
    retinanet=('retina_cls', 'retina_reg', 'cls_convs.1'),
    fcos=('conv_cls', 'conv_reg', 'conv_centerness', 'scales', 'reg_convs.1'),
    atss=('atss_cls', 'atss_reg', 'atss_centerness', 'scales', 'reg_convs.1'),
    gfl=('gfl_cls', 'gfl_reg', 'scales', 'cls_convs.1'),
    rtmdet=('rtm_cls', 'rtm_reg', 'reg_convs.0.1', 'cls_convs.2.1'),
    yolox=('multi_level_conv_cls', 'multi_level_conv_reg', 'multi_level_cls_convs.0.1'),
)


@pytest.mark.parametrize('kind', LAST)
def test_the_students_last_layers_get_no_gradient_of_it(kind):
    net = two_convs(getattr(toys, kind)())
    model = build(distill_cfg(net, net, link_of(kind)))
    batch = detection_batch()
    for sample in batch['data_samples']:
        del sample.gt_instances.masks  # RTMDet's assigner wants none or its own kind
    losses = losses_of(model, batch)
    losses['loss_kd_head'].backward()
    touched = {n for n, p in model.named_parameters() if p.grad is not None}
    for name in LAST[kind]:
        assert not [n for n in touched if n.startswith(f'bbox_head.{name}.')], name
    first = 'multi_level_cls_convs.0.0' if kind == 'yolox' else 'cls_convs.0'
    reached = [
        p.grad.abs().sum()
        for n, p in model.named_parameters()
        if n in touched and n.startswith((f'bbox_head.{first}', 'backbone', 'neck'))
    ]
    assert len(reached) > 20 and torch.stack(reached).sum() > 0
    teacher = model.distiller.teacher.model
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(k.startswith('distiller.') for k in model.state_dict())
    assert not list(model.distiller.parameters())
    assert losses['kd_head_classes'] > 0 and losses['kd_head_boxes'] > 0


@pytest.mark.parametrize(('kind', 'convs'), [('fcos', 4), ('yolox', 2)])
def test_snippets_without_a_shipped_config_fit_their_heads(kind, convs):
    net = getattr(toys, kind)()
    net.bbox_head.stacked_convs = convs
    snippet = Config.fromfile(ROOT / 'configs/_base_/crosskd_heads.py')
    model = build(distill_cfg(net, net, snippet[f'crosskd_{kind}']))
    assert float(losses_of(model, detection_batch())['loss_kd_head']) > 0


def test_cross_predictions_are_what_the_teachers_head_gives():
    """By hand, on RetinaNet: the teacher's head from its second convolution on."""
    net = two_convs(toys.retinanet())
    link = link_of('retinanet')
    link['head']['stages'].pop(0)
    model = build(distill_cfg(net, net, link))
    stage = model.distiller.links['head'].stages[0]
    head = model.distiller.teacher.model.bbox_head
    student, teacher = torch.randn(2, 2, 16, 6, 6)
    levels = [torch.randn(2, 16, s, s) for s in (6, 3, 2, 1, 1)]
    pair = FeaturePair(
        link='x',
        student=[*levels, *levels],
        teacher=[x.clone() for x in levels] * 2,
        samples=[],
        image_size=(48, 48),
    )
    kept = [x.clone() for x in levels]
    out = stage(pair)
    for i, level in enumerate(kept):
        boxes = head.retina_reg(head.reg_convs[1](level.relu()))
        torch.testing.assert_close(out.student[i + 5], boxes)
        classes = head.retina_cls(head.cls_convs[1](level.relu()))
        torch.testing.assert_close(out.student[i], classes)
        torch.testing.assert_close(out.teacher[i], out.student[i])
    # an activation in place does not change what other links read
    assert all(torch.equal(a, b) for a, b in zip(kept, levels))


def test_branches_of_one_feature_go_together_as_far_as_they_are_alike():
    """ATSS: boxes and centre-ness behind the same convolutions, to the same losses."""
    net = two_convs(toys.atss())
    model = build(distill_cfg(net, net, link_of('atss')))
    head, calls = model.distiller.teacher.model.bbox_head, []
    head.reg_convs[1].register_forward_hook(lambda *_: calls.append(1))
    stage = model.distiller.links['head'].stages[1]
    assert stage._keeps_all and not stage._keeps_input
    found, ran = [], []
    for together in (True, False):
        stage._keeps_all = together
        model.zero_grad()
        calls.clear()
        losses = losses_of(model, detection_batch())
        sum(v for k, v in losses.items() if k.startswith('loss_kd')).backward()
        found.append((losses, model.bbox_head.reg_convs[0].conv.weight.grad.clone()))
        ran.append(len(calls))
    levels, sides = 5, 2
    assert ran[1] - ran[0] == levels * sides
    torch.testing.assert_close(*[gradient for _, gradient in found])
    torch.testing.assert_close(*[losses['loss_kd_head'] for losses, _ in found])


def test_the_teacher_stays_borrowed_in_copies_pickles_and_training():
    net = two_convs(toys.gfl())
    model = build(distill_cfg(net, two_convs(toys.gfl()), link_of('gfl')))
    before = {
        k: v.clone() for k, v in model.distiller.teacher.model.state_dict().items()
    }
    batch = detection_batch()
    logs = train_steps(model, batch, 2)
    assert all('loss_kd_head' in log for log in logs)
    after = model.distiller.teacher.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    twin = copy.deepcopy(model)
    stage, other = (m.distiller.links['head'].stages[1] for m in (model, twin))
    assert other.borrowed()[-1] is stage.borrowed()[-1]
    again = pickle.loads(pickle.dumps(model))
    lent = again.distiller.links['head'].stages[1].borrowed()[-1]
    assert lent is again.distiller.teacher.model.bbox_head.scales[-1]
    torch.testing.assert_close(
        losses_of(again, batch)['loss_kd_head'],
        losses_of(model, batch)['loss_kd_head'],
    )
    # a teacher in bf16, moved after it was built: what no tap reaches moves too
    half = build(
        distill_cfg(
            net,
            net,
            link_of('gfl')
            | dict(
                fpn=dict(
                    student='neck', teacher='neck', criterion=dict(type='kd_mm.PKDLoss')
                )
            ),
            teacher_kwargs=dict(dtype='bf16'),
        )
    )
    assert losses_of(half, batch)['loss_kd_head'].dtype == torch.float32


def test_borrowed_modules_move_with_the_teacher_though_no_tap_reaches_them():
    """The neck is tapped, the head is only borrowed: it must not stay behind."""
    link = dict(
        fpn=dict(
            student='neck',
            teacher='neck',
            stages=[
                dict(
                    type='kd_mm.CrossKD',
                    rest=['bbox_head.cls_convs[0:]', 'bbox_head.retina_cls'],
                )
            ],
            criterion=dict(type='kd_mm.QFLLoss'),
        )
    )
    net = toys.retinanet()
    model = build(distill_cfg(net, net, link))
    model.to(torch.float64)
    head = model.distiller.teacher.model.bbox_head
    assert head.retina_cls.weight.dtype == torch.float64


def test_match_moments_gives_the_teachers_and_survives_single_values():
    s = torch.randn(3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    t = 3 * torch.randn(3, 4, 2, 2, dtype=torch.float64) + 1
    out = match_moments(s, t, eps=0.0)
    for channel in range(4):
        mine, theirs = out[:, channel].flatten(), t[:, channel].flatten()
        torch.testing.assert_close(mine.mean(), theirs.mean())
        torch.testing.assert_close(mine.std(), theirs.std())
    single, constant = torch.randn(1, 4, 1, 1), torch.ones(2, 4, 3, 3)
    for feature in (single, constant):
        feature.requires_grad_()
        match_moments(feature, t.float()).sum().backward()
        assert feature.grad.isfinite().all()
    tokens = FeaturePair(
        link='x',
        student=[torch.randn(2, 9, 4)],
        teacher=[torch.randn(2, 9, 4)],
        samples=[],
        image_size=(32, 32),
    )
    want = tokens.teacher[0].mean((0, 1))
    torch.testing.assert_close(MatchMoments()(tokens).student[0].mean((0, 1)), want)


@pytest.mark.parametrize(
    ('rest', 'says'),
    [
        (['bbox_head.cls_conv[1:]'], "no module 'bbox_head.cls_conv'; nearest:.*cls_c"),
        (['bbox_head.cls_convs'], r'write "bbox_head.cls_convs\[0:\]" for all'),
        (['bbox_head.retina_cls[1:]'], 'a Conv2d, which has no parts'),
        (['bbox_head.retina_cls()'], 'is no step'),
        ([['bbox_head.retina_cls']] * 2, '2 branches and the link 5 levels'),
        ([], 'names no module'),
        (['backbone.conv1'], r'(?s)stages\[0\] CrossKD.*level 0: student'),
    ],
)
def test_a_chain_that_does_not_exist_or_fit_is_named(rest, says):
    link = dict(
        student='neck',
        teacher='neck',
        stages=[dict(type='kd_mm.CrossKD', rest=rest)],
        criterion=dict(type='kd_mm.QFLLoss'),
    )
    net = toys.retinanet()
    with pytest.raises(ConfigError, match=says):
        build(distill_cfg(net, net, dict(fpn=link)))


def test_what_would_be_misread_is_refused():
    net = two_convs(toys.gfl())
    link = link_of('gfl')['head']
    moved = dict(link, stages=[dict(type='kd_mm.ChannelAlign'), *link['stages']])
    with pytest.raises(ConfigError, match='ChannelAlign stands before it and moves'):
        build(distill_cfg(net, net, dict(head=moved)))
    with pytest.raises(ConfigError, match='counts {level} from the first'):
        some = dict(link, levels=[0, 1, 5, 6])
        build(distill_cfg(net, net, dict(head=some)))
    with pytest.raises(ConfigError, match='ConvAdapter'):
        build(distill_cfg(two_convs(toys.gfl(width=8)), net, dict(head=link)))
    assert CrossKD(rest=['a.b', 'c']).branches == [['a.b', 'c']]
