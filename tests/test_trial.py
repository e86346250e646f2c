"""The trial before training refuses what cannot work, and nothing that works."""

import copy
import random

import numpy as np
import pytest
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
from mmdet.models import RetinaNet
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.registry import MODELS as DET_MODELS
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models import ImageClassifier
from torch import nn

from kd_mm import sizes
from kd_mm.errors import ConfigError
from kd_mm.preprocess import crop


def link(tap, *, stages=(), criterion='MSELoss', **kwargs):
    return dict(
        fpn=dict(
            student=tap,
            teacher=tap,
            stages=list(stages),
            criterion=dict(type=f'kd_mm.{criterion}'),
            **kwargs,
        )
    )


def without_size(*args, **kwargs):
    cfg = distill_cfg(*args, **kwargs)
    cfg.pop('trial_size')
    return cfg


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
        (toys.detr, 'bbox_head[0]'),
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


class TestPadding:
    student = staticmethod(lambda: toys.retinanet(pad_size_divisor=1))

    def test_a_padded_teacher_is_cropped_to_the_students_maps(self):
        batch = detection_batch(sizes=[(3, 83, 107), (3, 90, 97)])
        model = build(distill_cfg(self.student(), toys.retinanet(), link('neck')))
        model.distiller.teacher.model.load_state_dict(
            {k: v for k, v in model.state_dict().items() if 'distiller' not in k}
        )
        model.eval()
        data = model.data_preprocessor(copy.deepcopy(batch), True)
        with torch.no_grad():
            student = model.extract_feat(data['inputs'])
        teacher = model.distiller.teacher
        seen = teacher(data['inputs'], data['data_samples'], ['neck'])
        maps = seen.features(teacher.taps.taps['neck'])
        assert [m.shape for m in maps] == [m.shape for m in student]
        # the same network twice: only what the padding reaches differs
        assert torch.allclose(maps[0][..., :4, :4], student[0][..., :4, :4], atol=1e-4)

    def test_images_of_odd_sizes_train(self):
        model = build(without_size(self.student(), toys.retinanet(width=24)))
        for sizes_ in ([(3, 83, 107), (3, 90, 97)], [(3, 129, 64)] * 2):
            log = train_steps(model, detection_batch(sizes=sizes_), steps=1)
            assert log[0]['loss_kd_fpn'] > 0

    def test_the_trial_takes_odd_sizes_where_the_student_does(self):
        model = build(self.student())
        assert sizes.candidates(model, on_cpu=True)[0] == sizes.ODD
        model = build(toys.retinanet())  # pads to 32
        assert sizes.candidates(model, on_cpu=True)[0] == (160, 224)

    def test_the_teachers_masks_follow_its_padding(self):
        """DETR draws its masks from the size of the batch in the samples."""
        student, teacher = toys.detr(), toys.detr()
        student.data_preprocessor.pad_size_divisor = 1
        teacher.data_preprocessor.pad_size_divisor = 64
        model = build(distill_cfg(student, teacher, link('backbone')))
        shapes = []
        model.distiller.teacher.model.backbone.register_forward_hook(
            lambda _, args, out: shapes.append(tuple(args[0].shape[2:]))
        )
        original = model.distiller.teacher.model.predict
        model.distiller.teacher.model.predict = lambda inputs, samples: (
            shapes.append(samples[0].batch_input_shape),
            original(inputs, samples),
        )
        data = model.data_preprocessor(detection_batch(sizes=[(3, 83, 107)] * 2), True)
        losses_of(model, detection_batch(sizes=[(3, 83, 107)] * 2))
        assert shapes == [(128, 128), (128, 128)]
        assert data['data_samples'][0].batch_input_shape == (83, 107)

    @pytest.mark.parametrize(
        'cells, padded, size, expected',
        [
            ((28, 44), (224, 352), (203, 331), (26, 42)),
            ((7, 11), (224, 352), (203, 331), (7, 11)),
            ((2, 3), (224, 352), (203, 331), (2, 3)),
            ((1, 1), (224, 352), (203, 331), (1, 1)),
            ((64, 96), (256, 384), (211, 331), (53, 83)),
            ((300, 300), (160, 160), (150, 150), (300, 300)),  # no stride: no map
        ],
    )
    def test_cropping_is_exact(self, cells, padded, size, expected):
        feature = torch.zeros(2, 4, *cells)
        assert tuple(crop(feature, padded, size).shape[2:]) == expected

    def test_only_maps_are_cropped(self):
        for feature in (torch.zeros(2, 49, 8), torch.zeros(2, 8)):
            assert crop(feature, (224, 224), (211, 211)) is feature


def with_bands(cfg, bands, **pre):
    cfg.backbone.in_channels = bands
    cfg.data_preprocessor = dict(type='ClsDataPreprocessor', num_classes=4, **pre)
    return cfg


@pytest.mark.parametrize('bands', [1, 4, 12])
def test_images_need_not_have_three_channels(bands):
    pre = dict(mean=[100.0] * bands, std=[50.0] * bands)
    student = with_bands(toys.classifier(), bands, **pre)
    teacher = with_bands(toys.classifier(base=16), bands, mean=[1.0], std=[2.0])
    links = link('backbone', stages=[dict(type='kd_mm.ConvAdapter')])
    model = build(distill_cfg(student, teacher, links))
    batch = classification_batch()
    batch['inputs'] = [i[:1].repeat(bands, 1, 1) for i in batch['inputs']]
    assert float(losses_of(model, batch)['loss_kd_fpn']) > 0
    # without constants the first convolution says how many
    model = build(distill_cfg(with_bands(toys.classifier(), bands), teacher, links))
    assert float(losses_of(model, batch)['loss_kd_fpn']) > 0


def test_other_numbers_of_channels_are_not_converted():
    links = link('backbone')
    student = with_bands(toys.classifier(), 4, mean=[1.0] * 4, std=[1.0] * 4)
    with pytest.raises(ConfigError, match='4 channels and the teacher.* 3'):
        build(distill_cfg(student, toys.classifier(), links))
    with pytest.raises(
        ConfigError,
        match='the teacher .*; it takes images of 3 channels and the student of 4',
    ):
        build(
            distill_cfg(
                with_bands(toys.classifier(), 4),
                with_bands(toys.classifier(), 3),
                links,
            )
        )


def test_yolox_rearranges_three_channels_in_front_of_its_first_convolution():
    build(without_size(toys.yolox(), toys.yolox(), link('neck')))


def test_a_network_for_one_size_gets_that_size():
    def mixer():
        cfg = toys.classifier()
        arch = dict(embed_dims=16, num_layers=1, tokens_mlp_dims=8, channels_mlp_dims=8)
        cfg.backbone = dict(type='MlpMixer', arch=arch, img_size=48, patch_size=16)
        cfg.neck = dict(type='GlobalAveragePooling', dim=1)
        cfg.head.in_channels = 16
        return cfg

    model = build(without_size(mixer(), mixer(), link('backbone')))
    assert float(losses_of(model, classification_batch(size=48))['loss_kd_fpn']) >= 0
    cfg = distill_cfg(mixer(), mixer(), link('backbone')) | dict(trial_size=(64, 64))
    with pytest.raises(ConfigError, match='tried: images of 3 x 64 x 64'):
        build(cfg)


def pipeline(*steps, **wrapper):
    return dict(type='Any', dataset=dict(type='X', pipeline=list(steps)), **wrapper)


@pytest.mark.parametrize(
    'dataset, expected',
    [
        (None, None),
        (pipeline(dict(type='RandomResizedCrop', scale=224)), (224, 224)),
        (pipeline(dict(type='Resize', scale=(1333, 800), keep_ratio=True)), None),
        (pipeline(dict(type='Resize', scale=(512, 320))), (320, 512)),
        (
            pipeline(
                dict(type='RandomResize', scale=(2048, 1024), keep_ratio=True),
                dict(type='mmdet.RandomCrop', crop_size=(640, 320)),
            ),
            (640, 320),
        ),
        (pipeline(pipeline=[dict(type='Mosaic', img_scale=(640, 320))]), (320, 640)),
        (
            pipeline(
                dict(
                    type='RandomChoice',
                    transforms=[[dict(type='CenterCrop', crop_size=96)]],
                )
            ),
            (96, 96),
        ),
    ],
)
def test_the_pipeline_tells_the_size(dataset, expected):
    assert sizes.pipeline_size(dataset) == expected


def test_the_trial_runs_at_the_size_of_the_runs_pipeline(tmp_path, monkeypatch):
    shapes = []
    original = RetinaNet.loss

    def loss(self, inputs, data_samples):
        shapes.append(tuple(inputs.shape))
        return original(self, inputs, data_samples)

    monkeypatch.setattr(RetinaNet, 'loss', loss)
    data = dict(
        batch_size=2,
        dataset=pipeline(dict(type='Resize', scale=(160, 96))),
        sampler=dict(type='DefaultSampler', shuffle=True),
    )
    runner(
        without_size(toys.retinanet(), toys.retinanet()),
        tmp_path,
        train_dataloader=dict(data, _delete_=True),
    )
    assert shapes == [(3, 3, 96, 160)]


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
