"""OFD: margins, adapter, partial L2."""

import copy

import pytest
import torch
import toys
from helpers import build, classification_batch, distill_cfg, losses_of, train_steps
from torch.autograd import gradcheck

from kd_mm.criteria import partial_l2_loss
from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair
from kd_mm.stages import OFD


def pair(student, teacher) -> FeaturePair:
    sides = dict(student=[student], teacher=[teacher])
    return FeaturePair(link='x', samples=[], image_size=(64, 64), **sides)


def test_partial_l2_equals_a_loop():
    s, t = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    weight = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    total = 0.0
    for (n, c, y, x), a in zip(
        torch.cartesian_prod(*(torch.arange(k) for k in s.shape)), s.flatten()
    ):
        b = t[n, c, y, x]
        if not (a <= b <= 0):
            total += float(weight[n, 0, y, x] * (a - b) ** 2)
    got = partial_l2_loss(s, t, weight=weight)
    assert float(got) == pytest.approx(total / s.numel(), rel=1e-9)


def test_partial_l2_has_the_right_gradient():
    s, t = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    assert gradcheck(lambda s: partial_l2_loss(s, t), (s.requires_grad_(),))


def test_margins_are_the_mean_negative_responses_of_all_steps():
    s, batches = torch.randn(4, 3, 5, 5), torch.randn(3, 4, 6, 5, 5)
    batches[:, :, 0] = batches[:, :, 0].abs()  # a channel that is never negative
    stage = OFD(steps=3)
    stage.setup(pair(s, batches[0]))
    for t in batches:
        stage(pair(s, t))
    for c in range(6):
        values = batches[:, :, c].flatten()
        negative = values[values < 0]
        expected = float(negative.mean()) if len(negative) else 0.0
        assert float(stage.margin(0)[c]) == pytest.approx(expected, rel=1e-5)
    frozen = stage.margin(0).clone()
    out = stage(pair(s, -torch.rand(4, 6, 5, 5)))
    assert torch.equal(stage.margin(0), frozen)
    assert (out.teacher[0] >= frozen).all()


def test_one_overflow_does_not_stay_in_the_margins():
    stage, s, t = OFD(steps=3), torch.randn(4, 3, 5, 5), torch.randn(4, 6, 5, 5)
    stage.setup(pair(s, t))
    stage(pair(s, t.clone().index_fill_(0, torch.tensor(1), -torch.inf)))
    stage(pair(s, t))
    negative = t[:, 0][t[:, 0] < 0].mean()
    assert float(stage.margin(0)[0]) == pytest.approx(float(negative), rel=1e-5)


def test_the_trial_and_evaluation_measure_nothing():
    s, t = torch.randn(4, 3, 5, 5), torch.randn(4, 6, 5, 5)
    stage = OFD().eval()
    stage.setup(pair(s, t))
    stage.eval()(pair(s, t))
    assert not stage.negative_0.any() and int(stage.seen) == 0


def test_a_loaded_stage_goes_on_where_it_was():
    s, batches = torch.randn(4, 3, 5, 5), torch.randn(4, 4, 6, 5, 5)
    whole, second = OFD(steps=3), OFD(steps=3)
    for stage in (whole, second):
        stage.setup(pair(s, batches[0]))
    for step, t in enumerate(batches):
        whole(pair(s, t))
        if step == 1:
            second.load_state_dict(copy.deepcopy(whole.state_dict()))
        elif step > 1:
            second(pair(s, t))
    assert torch.equal(whole.negative_0, second.negative_0)
    assert int(second.seen) == 3


def test_refuses_other_sizes_and_no_steps():
    with pytest.raises(ConfigError, match='Resize'):
        OFD().setup(pair(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 8, 8)))
    with pytest.raises(ConfigError, match='steps'):
        OFD(steps=0)


def test_teaches_a_classifier_by_its_pre_activations():
    tap = 'backbone.layer4.1.bn1@input'  # a ReLU in place follows bn1
    link = dict(
        student=tap,
        teacher=tap,
        stages=[dict(type='kd_mm.OFD')],
        criterion=dict(type='kd_mm.OFDLoss'),
    )
    model = build(
        distill_cfg(toys.classifier(), toys.classifier(base=16), dict(pre=link))
    )
    logs = train_steps(model, classification_batch(), steps=4)
    assert 0 < logs[-1]['loss_kd_pre'] < logs[0]['loss_kd_pre']
    model.parse_losses(losses_of(model, classification_batch()))[0].backward()
    assert all(p.grad is not None for p in model.distiller.parameters())
