"""Student and teacher that are built already, perhaps trained."""

import copy

import pytest
import torch
import toys
from conftest import ROOT
from helpers import (
    DEVICES,
    classification_batch,
    detection_batch,
    fitnet,
    losses_of,
    runner,
)
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

import kd_mm
from kd_mm.errors import ConfigError


def plain(cfg, *, seed=0):
    """A network with weights, as ``init_detector`` gives one."""
    torch.manual_seed(seed)
    scope = 'mmpretrain' if 'ImageClassifier' in str(cfg) else 'mmdet'
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(copy.deepcopy(cfg))


def detectors():
    return plain(toys.retinanet()), plain(toys.retinanet(width=24), seed=1)


def distilled(student, teacher, links=None, *, checkpoint=None, **kwargs):
    return kd_mm.Distill(
        student=student,
        teacher=dict(config=teacher, checkpoint=checkpoint),
        links=links or fitnet(),
        trial_size=(128, 128),
        **kwargs,
    )


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unequal(one, other):
    return [name for name, value in one.items() if not torch.equal(value, other[name])]


def test_two_built_detectors_are_distilled_as_those_from_configs(tmp_path):
    student, teacher = detectors()
    weights, torch_state = state_of(student), torch.get_rng_state()
    model = distilled(student, teacher)
    assert model is student and model.distiller.teacher.model is teacher
    assert not any(m.training for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not unequal(weights, model.state_dict())
    assert torch.equal(torch_state, torch.get_rng_state())

    torch.save(teacher.state_dict(), tmp_path / 'teacher.pth')
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        twin = distilled(
            toys.retinanet(),
            toys.retinanet(width=24),
            checkpoint=str(tmp_path / 'teacher.pth'),
        )
    assert not unequal(weights, twin.state_dict())
    twin.distiller.load_state_dict(model.distiller.state_dict())
    batch = detection_batch()
    one, other = losses_of(model.train(), batch), losses_of(twin.train(), batch)
    assert one['loss_kd_fpn'] > 0
    assert {k: str(v) for k, v in one.items()} == {k: str(v) for k, v in other.items()}


def test_two_built_classifiers_are_distilled():
    links = dict(
        logits=dict(
            student='head.fc', teacher='head.fc', criterion=dict(type='kd_mm.KDLoss')
        )
    )
    teacher = plain(toys.classifier(base=16), seed=1)
    model = distilled(plain(toys.classifier()), teacher, links)
    losses = losses_of(model.train(), classification_batch())
    assert losses['loss_kd_logits'] > 0 and losses['loss_kd_logits'].requires_grad


def test_two_built_networks_are_enough():
    model = kd_mm.distil(*detectors())
    losses = losses_of(model.train(), detection_batch())
    assert losses['loss_kd_features'] > 0


def test_a_runner_goes_on_from_the_weights_of_a_built_student(tmp_path):
    """It initialises every model before it trains; these have their weights."""
    student, teacher = detectors()
    theirs = state_of(teacher)
    weights = {name: value.clone() for name, value in student.named_parameters()}
    bias = 'bbox_head.retina_reg.bias'
    with torch.no_grad():
        teacher.bbox_head.retina_reg.bias.fill_(0.25)
    model = distilled(student, teacher, inherit=['bbox_head.retina_reg'])
    still = {'optim_wrapper.optimizer.lr': 0.0}
    run = runner(toys.retinanet(), tmp_path, epochs=1, **still)
    run.model = model
    run.train()
    assert unequal(weights, dict(model.named_parameters())) == [bias]
    assert (model.bbox_head.retina_reg.bias == 0.25).all()  # inherited
    assert unequal(theirs, teacher.state_dict()) == [bias]


def test_what_cannot_be_distilled_is_refused_and_left_as_it_was():
    student, teacher = detectors()
    with pytest.raises(ConfigError, match='nearest: neck'):
        distilled(
            student, teacher, fitnet() | dict(x=dict(fitnet()['fpn'], student='nek'))
        )
    assert type(student).__name__ == 'RetinaNet' and not hasattr(student, 'distiller')

    with pytest.raises(ConfigError, match='RetinaNet shares .* weights .*deepcopy'):
        distilled(student, student)
    assert all(p.requires_grad for p in student.bbox_head.parameters())
    with pytest.raises(ConfigError, match='student Linear has no data_preprocessor'):
        distilled(nn.Linear(1, 1), teacher)
    with pytest.raises(ConfigError, match='teacher Linear is a network without a data'):
        distilled(student, nn.Linear(1, 1))
    with pytest.raises(ConfigError, match='DistilledRetinaNet is distilled already'):
        distilled(distilled(student, teacher), plain(toys.retinanet(width=24)))


@pytest.mark.parametrize('device', DEVICES)
def test_built_networks_may_borrow_from_each_other_where_they_are(device):
    cfg = toys.gfl()
    cfg.bbox_head.stacked_convs = 4  # as the snippet's heads
    student, teacher = (plain(cfg, seed=seed).to(device) for seed in range(2))
    links = Config.fromfile(ROOT / 'configs/_base_/crosskd_heads.py').crosskd_gfl
    model = distilled(student, teacher, links.to_dict()).train()
    assert next(teacher.parameters()).device.type == device
    losses = losses_of(model, detection_batch())
    assert losses['loss_kd_head'].device.type == device and losses['loss_kd_head'] > 0
