"""The trial takes images as the run will: of any size, padding and channels."""

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
    link,
    losses_of,
    runner,
    train_steps,
)
from mmdet.models import RetinaNet

from kd_mm import sizes
from kd_mm.errors import ConfigError
from kd_mm.preprocess import crop


def without_size(*args, **kwargs):
    cfg = distill_cfg(*args, **kwargs)
    cfg.pop('trial_size')
    return cfg


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
        student, teacher = query_toys.detr(), query_toys.detr()
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
