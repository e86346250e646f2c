"""MGD: masked generation in front of the mean squared error."""

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
    train_steps,
)

from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair
from kd_mm.stages import MGD


def pair(student, teacher) -> FeaturePair:
    return FeaturePair(
        link='x', student=student, teacher=teacher, samples=[], image_size=(64, 64)
    )


def maps(*widths, size=6, count=40):
    return [torch.randn(count, width, size, size) for width in widths]


@pytest.mark.parametrize('ratio', [0.0, 0.3, 0.65])
def test_masks_the_asked_part_of_positions_or_channels(ratio):
    s, _ = maps(32, 32)
    for mask, shape in (('spatial', (40, 1, 6, 6)), ('channel', (40, 32, 1, 1))):
        stage = MGD(ratio=ratio, mask=mask)
        kept = stage._kept(s, 0)
        assert kept.shape == shape and set(kept.unique().tolist()) <= {0.0, 1.0}
        assert float(kept.mean()) == pytest.approx(1 - ratio, abs=0.05)
        if ratio:
            assert kept.flatten(1).float().std(0).min() > 0  # each image has its own


def test_rebuilds_from_what_is_left_as_two_convolutions_would():
    s, t = maps(4, 6)
    stage = MGD(ratio=0.5)
    stage.setup(pair([s], [t]))
    kept = stage._kept(s, 0)
    got = stage(pair([s], [t])).student[0]
    align, (first, second) = stage.aligns[0], stage.generators[0]
    x = F.conv2d(s, align.weight, align.bias) * kept
    x = F.conv2d(x, first.conv.weight, first.conv.bias, padding=1).relu()
    expected = F.conv2d(x, second.conv.weight, second.conv.bias, padding=1)
    assert got.shape == t.shape
    torch.testing.assert_close(got, expected)


def test_equal_widths_need_no_alignment_and_masked_inputs_get_no_gradient():
    s, t = maps(6, 6)
    stage = MGD(ratio=0.5)
    stage.setup(pair([s], [t]))
    assert not list(stage.aligns.parameters())
    s.requires_grad_()
    kept = stage._kept(s, 0).expand_as(s).bool()
    stage(pair([s], [t])).student[0].square().sum().backward()
    assert (s.grad[~kept] == 0).all() and s.grad[kept].abs().min() > 0


def test_masks_differ_by_step_and_go_on_after_a_resume():
    s, t = maps(6, 6)
    whole, second = MGD(), MGD()
    for stage in (whole, second):
        stage.setup(pair([s], [t]))
    first = whole._kept(s, 0)
    whole(pair([s], [t]))
    assert not torch.equal(whole._kept(s, 0), first)
    second.load_state_dict(whole.state_dict())
    assert torch.equal(whole._kept(s, 0), second._kept(s, 0))


@pytest.mark.parametrize(
    'options', [dict(ratio=1.0), dict(ratio=-0.1), dict(mask='image')]
)
def test_refuses_options_that_mean_nothing(options):
    with pytest.raises(ConfigError, match=f'MGD.{next(iter(options))}: '):
        MGD(**options)


def test_refuses_maps_of_other_sizes():
    s, t = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 4, 4)
    with pytest.raises(ConfigError, match='Resize'):
        MGD().setup(pair([s], [t]))


@pytest.mark.parametrize('name', ['retinanet', 'classifier'])
def test_teaches_a_real_model_and_its_copy(name):
    toy = getattr(toys, name)
    tap = 'neck' if name == 'retinanet' else 'backbone'
    batch = detection_batch() if name == 'retinanet' else classification_batch()
    link = dict(
        student=tap,
        teacher=tap,
        stages=[dict(type='kd_mm.MGD', ratio=0.5)],
        criterion=dict(type='kd_mm.MSELoss'),
    )
    model = build(distill_cfg(toy(), toy(base=16), dict(maps=link)))
    clone = copy.deepcopy(model)
    for one in (model, clone):
        logs = train_steps(one, batch, steps=4)
        assert 0 < logs[-1]['loss_kd_maps'] < logs[0]['loss_kd_maps']
    model.parse_losses(losses_of(model, batch))[0].backward()
    assert all(p.grad is not None for p in model.distiller.parameters())
