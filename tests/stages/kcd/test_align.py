"""ChannelAlign: what it does to features, and what its config may say."""

import pytest
import torch
import toys
from align_toys import (
    STUDENT,
    Log,
    align_of,
    distilled,
    links,
    pair_of,
    stage_on,
)
from helpers import blotchy_batches, build, distill_cfg, losses_of

from kd_mm.criteria import attention_loss, mse_loss, pkd_loss
from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair
from kd_mm.stages import ChannelAlign
from kd_mm.stages.kcd import fit_channels
from kd_mm.stages.kcd.matching import TRANSFORMS
from kd_mm.stages.kcd.moments import Covariance

# ---- what it does to a pair -------------------------------------------------------


@pytest.mark.parametrize('widths', [(6, 6), (6, 15), (15, 6)])
@pytest.mark.parametrize('transform', TRANSFORMS)
def test_both_sides_have_the_same_channels_whatever_the_widths(transform, widths):
    pair = pair_of(*widths)
    stage = stage_on(pair, transform=transform)
    out = stage(pair)
    matrix = transform in ('procrustes', 'ridge')
    width = widths[0] if matrix else min(widths)
    assert out.student[0].shape == out.teacher[0].shape == (40, width, 3, 3)


@pytest.mark.parametrize('transform', ['grouped', 'bipartite', 'ridge'])
@pytest.mark.parametrize('form', ['tokens', 'vector'])
def test_tokens_and_vectors_are_aligned_like_maps(transform, form):
    pair = pair_of(6, 15)
    stage = stage_on(pair, transform=transform)
    teacher = pair.teacher[0]
    expected = stage(pair).teacher[0]
    if form == 'tokens':
        pair.teacher, expected = [teacher.flatten(2).mT], expected.flatten(2).mT
        pair.student = [pair.student[0].flatten(2).mT]
    else:
        pair.teacher, expected = [teacher[..., 0, 0]], expected[..., 0, 0]
        pair.student = [pair.student[0][..., 0, 0]]
    torch.testing.assert_close(stage(pair).teacher[0], expected)


def test_grouped_has_no_scale():
    with pytest.raises(ConfigError, match='no scale and offset fit'):
        ChannelAlign(transform='grouped', scale=True)


def test_grouped_passes_the_entry_of_largest_magnitude_with_its_sign():
    pair = pair_of(2, 3)
    stage = stage_on(pair, transform='grouped')
    stage.index_0.copy_(torch.tensor([[0, 1], [2, -1]]))
    pair.teacher = [torch.tensor([[1.0, 3.0, -2.0], [0.5, -1.0, 0.1]])]
    assert stage(pair).teacher[0].tolist() == [[-2.0, 3.0], [0.5, -1.0]]


def test_only_matched_channels_of_a_wider_student_are_supervised():
    pair = pair_of(15, 6)
    stage = stage_on(pair)
    student = pair.student[0]
    out = stage(pair)
    torch.testing.assert_close(out.student[0], student[:, stage.kept_0])
    out.student[0].sum().backward()
    touched = student.grad.abs().sum((0, 2, 3)).nonzero().flatten()
    assert torch.equal(touched, stage.kept_0)


@pytest.mark.parametrize('transform', TRANSFORMS)
def test_no_gradient_into_map_or_teacher(transform):
    model = distilled(transform=transform)
    fit_channels(model, [align_of(model)], blotchy_batches(2))
    assert not list(align_of(model).parameters())
    sum(
        v for k, v in losses_of(model, blotchy_batches(1)[0]).items() if 'kd' in k
    ).backward()
    assert any(p.grad is not None for p in model.neck.parameters())
    assert not any(b.requires_grad for b in align_of(model).buffers())
    teacher = model.distiller.teacher.model
    assert all(p.grad is None for p in teacher.parameters())


def test_at_cannot_see_a_permutation_and_mse_and_pkd_can():
    student, teacher = torch.randn(2, 4, 8, 5, 5).unbind()
    shuffled = teacher[:, torch.randperm(8).roll(1)]
    torch.testing.assert_close(
        attention_loss(student, shuffled), attention_loss(student, teacher)
    )
    for loss in (mse_loss, pkd_loss):
        assert abs(loss(student, shuffled) - loss(student, teacher)) > 1e-4


def test_a_permuted_teacher_is_put_back_in_order():
    """The teacher is the student with permuted FPN channels: the loss becomes 0."""
    model = distilled(teacher=STUDENT)
    order = torch.randperm(16)
    teacher = model.distiller.teacher.model
    teacher.load_state_dict(model.state_dict(), strict=False)
    for conv in teacher.neck.fpn_convs:
        conv.conv.weight.data = conv.conv.weight.data[order]
        conv.conv.bias.data = conv.conv.bias.data[order]
    fit_channels(model, [align_of(model)], blotchy_batches(8))
    assert torch.equal(align_of(model).index_0[0], order.argsort())
    model.eval()
    model.training = True  # batch norm as in the teacher
    assert losses_of(model, blotchy_batches(1)[0])['loss_kd_fpn'] < 1e-10


@pytest.mark.parametrize('similarity', ['gap', 'class', 'spatial'])
def test_every_similarity_fits_a_detector(similarity):
    model = distilled(similarity=similarity, share=similarity == 'gap')
    fit_channels(model, [align_of(model)], blotchy_batches(6))
    assert align_of(model).ready
    assert losses_of(model, blotchy_batches(1)[0])['loss_kd_fpn'] > 0


def test_a_stage_before_it_is_applied_before_matching():
    cfg = links()
    cfg['fpn']['stages'].insert(0, dict(type='kd_mm.ConvAdapter'))
    model = build(distill_cfg(STUDENT, toys.retinanet(width=24), cfg))
    stage = model.distiller.links.fpn.stages[1]
    fit_channels(model, [stage], blotchy_batches(2))
    assert stage.index_0.shape == (1, 24)


def planted(stage, *, channels=6):
    """A teacher whose channels are the student's, moved, scaled and shifted."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(8, channels, 5, 4, generator=generator)
    order = torch.randperm(channels, generator=generator)
    gain = 0.5 + torch.rand(channels, generator=generator)
    shift = torch.randn(channels, generator=generator)
    teacher = (gain[:, None, None] * student + shift[:, None, None])[:, order]
    pair = FeaturePair(
        link='x', student=[student], teacher=[teacher], samples=[], image_size=(40, 32)
    )
    stage.setup(pair)
    rows = [f.movedim(1, -1).flatten(0, -2).double() for f in (student, teacher)]
    stage.fit([Covariance.of(*rows)])
    return stage, pair


@pytest.mark.parametrize('transform', ['bipartite', 'procrustes'])
def test_scale_gives_the_student_s_mean_and_deviation_back(transform):
    stage, pair = planted(ChannelAlign(transform=transform, scale=True))
    student, teacher = pair.student[0], stage(pair).teacher[0]
    for moment in (torch.mean, torch.std):
        torch.testing.assert_close(
            moment(teacher, (0, 2, 3)), moment(student, (0, 2, 3)), rtol=1e-3, atol=1e-3
        )
    if transform == 'bipartite':  # the planted case is undone altogether
        torch.testing.assert_close(teacher, student, rtol=1e-4, atol=1e-4)


def test_without_scale_only_the_order_changes():
    stage, pair = planted(ChannelAlign())
    before = pair.teacher[0]
    after = stage(pair).teacher[0]
    assert not torch.allclose(after, pair.student[0], atol=0.1)
    channels = {tuple(c.flatten().tolist()) for c in before.movedim(1, 0)}
    assert channels == {tuple(c.flatten().tolist()) for c in after.movedim(1, 0)}


def test_scale_is_in_the_checkpoint_and_needs_every_position():
    stage, pair = planted(ChannelAlign(scale=True))
    fresh = ChannelAlign(scale=True)
    fresh.setup(pair)
    fresh.load_state_dict(stage.state_dict())
    assert torch.equal(fresh.scale_0, stage.scale_0) and fresh.scale_0.std() > 0
    with pytest.raises(ConfigError, match='spatial'):
        ChannelAlign(scale=True, similarity='gap')


# ---- what the config says ---------------------------------------------------------


@pytest.mark.parametrize(
    'kwargs, text',
    [
        (dict(transform='hungarian'), 'transform.*bipartite'),
        (dict(similarity='images'), 'similarity.*gap'),
        (dict(fit_at=-1), 'fit_at'),
        (dict(fit_at='end'), 'fit_at'),
        (dict(every=0), 'every'),
        (dict(every=1, transform='random'), 'every=1 has no effect'),
        (dict(images=1), 'images'),
        (dict(ridge=0.0), 'ridge'),
    ],
)
def test_wrong_values_are_named(kwargs, text):
    with pytest.raises(ConfigError, match=text):
        ChannelAlign(**kwargs)


def test_one_map_for_levels_of_different_widths_is_an_error():
    cfg = links(share=True)
    cfg['fpn'].update(student='backbone', teacher='backbone')
    with pytest.raises(ConfigError, match='links.fpn.*widths differ'):
        build(distill_cfg(STUDENT, STUDENT, cfg))
    with pytest.raises(ConfigError, match='one ChannelAlign'):
        distilled(stages=[dict(type='kd_mm.ChannelAlign')])


def test_warns_where_the_criterion_does_not_see_the_order():
    with Log() as log:
        distilled('ATLoss')
    (text,) = log.warnings()
    assert 'links.fpn' in text and 'ATLoss' in text and 'cannot help' in text


def test_warns_before_a_fresh_adapter():
    adapter = dict(type='kd_mm.ConvAdapter')
    with Log() as log:
        distilled(stages=[adapter])
    (text,) = log.warnings()
    assert 'links.fpn' in text and 'MSELoss' in text and 'ConvAdapter' in text


def test_does_not_warn_where_the_map_matters():
    adapter = dict(type='kd_mm.ConvAdapter')
    with Log() as log:
        distilled()
        distilled('PKDLoss')
        distilled(stages=[adapter], teacher=toys.retinanet(width=24))  # a choice
        distilled(stages=[adapter], transform='identity')
        distilled(stages=[adapter], transform='ridge')
    assert not log.warnings()
