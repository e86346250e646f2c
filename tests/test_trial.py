"""The trial before training refuses what cannot work, and nothing that works."""

import copy
import random

import numpy as np
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
    link,
    losses_of,
)
from mmdet.models import RetinaNet
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.registry import MODELS as DET_MODELS
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models import ImageClassifier
from torch import nn

from kd_mm.errors import ConfigError


@DET_MODELS.register_module()
class Fussy(RetinaNet):
    """A detector that changes itself in training and fails behind its neck."""

    fails = ('loss', 'predict')

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.calls = 0
        self.momentum = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.register_buffer('count', torch.zeros(()))

    def loss(self, inputs, data_samples):
        self.calls += 1
        self.count += 1
        self.momentum.add_(1)
        random.random(), np.random.rand(), torch.rand(1)
        self.extract_feat(inputs)
        return self._end('loss', inputs)

    def predict(self, inputs, data_samples, rescale=True):
        self.extract_feat(inputs)
        return self._end('predict', inputs)

    def _end(self, mode, inputs):
        if mode in self.fails:
            raise KeyError('border')
        return dict(loss=inputs.sum() * 0)


def fussy(**kwargs):
    return toys.retinanet(**kwargs) | dict(type='mmdet.Fussy')


def test_what_fails_behind_the_last_tap_is_not_looked_at(monkeypatch):
    model = build(distill_cfg(fussy(), fussy(width=24)))
    monkeypatch.setattr(Fussy, 'fails', ())
    assert float(losses_of(model, detection_batch())['loss_kd_fpn']) > 0


def test_the_trial_does_not_wait_for_regions_behind_its_taps(monkeypatch):
    ran = []
    forward = Shared2FCBBoxHead.forward
    monkeypatch.setattr(
        Shared2FCBBoxHead, 'forward', lambda *args: ran.append(1) or forward(*args)
    )
    model = build(distill_cfg(toys.faster_rcnn(), toys.faster_rcnn()))
    assert not ran
    losses_of(model, detection_batch())
    assert ran


def test_what_fails_in_front_of_a_tap_is_told_in_one_line():
    with pytest.raises(ConfigError) as caught:
        build(distill_cfg(fussy(), fussy(), link('bbox_head')))
    text = str(caught.value)
    assert 'the student Fussy cannot be tried in training' in text
    assert "in front of bbox_head: KeyError: 'border'" in text
    assert '3 x 128 x 128' in text and '\n' not in text and 'trial_size' not in text


def test_training_goes_on_where_only_the_training_mode_cannot_be_tried(
    monkeypatch,
):
    def loss(self, inputs, data_samples):
        raise AttributeError("no 'gt_masks'")

    monkeypatch.setattr(Fussy, 'loss', loss)
    monkeypatch.setattr('kd_mm.rehearsal._tell', lambda why: told.append(why))
    told = []
    build(distill_cfg(fussy(), fussy()))
    (line,) = told
    assert "in front of neck: AttributeError: no 'gt_masks'" in line


def test_the_trial_leaves_no_trace_in_the_student():
    cfg = fussy()
    plain, distilled = build(cfg), build(distill_cfg(cfg, fussy()))
    assert distilled.calls == 0
    state = distilled.state_dict()
    for key, value in plain.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert not any(m._forward_hooks for m in distilled.modules())


def test_the_trial_draws_no_random_numbers():
    after = []
    for cfg in (fussy(), distill_cfg(fussy(), fussy())):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope('mmdet'):
            MODELS.build(copy.deepcopy(cfg))
        after.append((random.random(), np.random.rand(), float(torch.rand(()))))
    assert after[0] == after[1]


@pytest.mark.parametrize(
    'student, tap',
    [
        (toys.faster_rcnn, 'roi_head.bbox_head.fc_cls@input'),
        (toys.mask_rcnn, 'roi_head.mask_head'),
        (query_toys.detr, 'bbox_head[0]'),
    ],
)
def test_regions_and_queries_are_no_features_of_images(student, tap):
    with pytest.raises(ConfigError, match='first axis is not the images.*tap maps'):
        build(distill_cfg(student(), student(), link(tap)))


@MODELS.register_module()
class Queries(BaseModel):
    """Has more queries in training than in prediction, as DINO does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body = nn.Conv2d(3, 8, 16, 16)
        self.head = nn.Linear(8, 8)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return getattr(self, mode)(inputs, data_samples)

    def loss(self, inputs, data_samples):
        return dict(loss=self._queries(inputs, 9).mean())

    def predict(self, inputs, data_samples):
        return self._queries(inputs, 7)

    def _queries(self, inputs, count):
        return self.head(self.body(inputs).flatten(2).transpose(1, 2)[:, :count])


def test_queries_that_depend_on_the_mode_are_refused():
    cfg = dict(type='Queries', data_preprocessor=dict(type='ImgDataPreprocessor'))
    build(distill_cfg(cfg, cfg, link('body')))
    with pytest.raises(ConfigError, match=r'9, 8\).*in training and .*7, 8\)'):
        build(distill_cfg(cfg, cfg, link('head')))


def test_a_teacher_may_know_other_classes():
    student, teacher = toys.classifier(classes=4), toys.classifier(classes=7)
    cfg = distill_cfg(student, teacher, link('backbone'))
    model = build(cfg)
    assert float(losses_of(model, classification_batch())['loss_kd_fpn']) > 0
    with pytest.raises(ConfigError, match=r'\(3, 4\).*\(3, 7\)'):
        build(distill_cfg(student, teacher, link('head', criterion='KDLoss')))


def test_a_device_that_fails_is_not_the_end(monkeypatch):
    monkeypatch.setattr('kd_mm.rehearsal.get_device', lambda: 'cuda')
    build(distill_cfg(toys.retinanet(), toys.retinanet()))


def test_a_teacher_without_a_head(monkeypatch):
    teacher = toys.classifier()
    teacher.head = None
    links = link('backbone')
    model = build(distill_cfg(toys.classifier(), teacher, links))
    assert float(losses_of(model, classification_batch())['loss_kd_fpn']) > 0


def test_weights_are_as_they_will_be_where_that_matters():
    @MODELS.register_module(force=True)
    class Particular(ImageClassifier):
        def init_weights(self):
            super().init_weights()
            self.ready = True

        def extract_feat(self, inputs, stage='neck'):
            assert hasattr(self, 'ready')
            return super().extract_feat(inputs, stage)

    student = toys.classifier() | dict(type='Particular')
    model = build(distill_cfg(student, toys.classifier(), link('backbone')))
    assert float(losses_of(model, classification_batch())['loss_kd_fpn']) > 0


@pytest.mark.parametrize(
    'name, why',
    [
        ('BaseSelfSupervisor', 'self-supervised'),
        ('BaseMOTModel', 'tracks'),
        ('SemiBaseDetector', 'semi-supervised'),
    ],
)
@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_models_of_other_inputs_are_refused_by_name(name, why, side):
    base = type(name, (BaseModel,), {})

    @MODELS.register_module(name='OtherInputs', force=True)
    class OtherInputs(base):
        def forward(self, inputs, data_samples=None, mode='tensor'):
            pass

    pair = dict(student=toys.retinanet(), teacher=toys.retinanet())
    pair[side] = dict(type='mmengine.OtherInputs')
    with pytest.raises(ConfigError, match=f'the {side} OtherInputs .*{why}'):
        build(distill_cfg(pair['student'], pair['teacher'], fitnet()))
