"""What the hook does around a training, beside serving stages."""

import pytest
import torch
import toys
from helpers import PackedImages, distill_cfg, link, runner
from mmcv.transforms import Normalize, RandomApply
from mmdet.models import DetDataPreprocessor
from mmengine.dataset import Compose
from mmengine.hooks import Hook
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import DATASETS, MODELS
from mmpretrain.datasets.transforms.processing import TorchVisonTransformWrapper
from torch.utils.data import ConcatDataset
from torchvision import transforms as torchvision

from kd_mm.errors import ConfigError


class Noted(Hook):
    """The random state that the first iteration begins with."""

    state: torch.Tensor | None = None

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.state is None:
            self.state = torch.get_rng_state()


@pytest.mark.parametrize('workers', [0, 1])
def test_a_teacher_that_is_evaluated_leaves_the_student_its_random_numbers(
    tmp_path, workers
):
    noted = []
    for validate in (False, True):
        wanted = dict(validate=validate)
        cfg = distill_cfg(toys.retinanet(), toys.retinanet(), teacher_kwargs=wanted)
        run = runner(
            cfg,
            tmp_path / str(validate),
            epochs=1,
            val_dataloader=dict(num_workers=workers, persistent_workers=workers > 0),
        )
        hook = Noted()
        run.register_hook(hook)
        run.train()
        noted.append((hook.state, torch.get_rng_state()))
    for one, other in zip(*noted, strict=True):
        assert torch.equal(one, other)


def test_a_teacher_whose_evaluation_fails_is_put_back_as_it_was(tmp_path, monkeypatch):
    wanted = dict(validate=True, dtype='bf16')
    cfg = distill_cfg(toys.retinanet(), toys.retinanet(), teacher_kwargs=wanted)
    run = runner(cfg, tmp_path, epochs=1)
    teacher = run.model.distiller.teacher.model

    def fails(*_):
        raise RuntimeError('no metric')

    monkeypatch.setattr('kd_mm.hooks.distill_hook.evaluate', fails)
    with pytest.raises(RuntimeError, match='no metric'):
        run.train()
    assert {p.dtype for p in teacher.parameters()} == {torch.bfloat16}


def test_a_teacher_without_a_head_cannot_be_evaluated(tmp_path):
    network = distill_cfg(toys.retinanet(), None)['student'].backbone
    guide = dict(config=network, validate=True, allow_random=True)
    guide.update(data_preprocessor=dict(bgr_to_rgb=True))
    stages = [dict(type='kd_mm.ConvAdapter')]
    links = link('neck', stages=stages, levels=dict(student=[0], teacher=[0]))
    links['fpn'].update(teacher='backbone.layer2')
    cfg = distill_cfg(toys.retinanet(), None, links) | dict(teacher=guide)
    with pytest.raises(ConfigError, match='validate.* has no head'):
        runner(cfg, tmp_path, epochs=1).train()


MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
STEPS = dict(
    mmcv=lambda: Normalize(MEAN, STD),
    torchvision=lambda: TorchVisonTransformWrapper(
        torchvision.Normalize, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    ),
    inside=lambda: RandomApply([dict(type='Normalize', mean=MEAN, std=STD)]),
    scaled=lambda: Normalize([0] * 3, [255] * 3),
    nothing=lambda: Normalize([0] * 3, [1] * 3, to_rgb=False),
)


@DATASETS.register_module(force=True)
class Normalised(ConcatDataset):
    """Wraps images whose pipeline, which is not run, has a certain transform."""

    def __init__(self, count, step):
        images = PackedImages(count)
        images.pipeline = Compose([])
        images.pipeline.transforms = [STEPS[step]()]
        super().__init__([images])


def raw(**kwargs):
    """A detector that takes its images as they come."""
    cfg = toys.retinanet(**kwargs)
    cfg.data_preprocessor = dict(type='DetDataPreprocessor', pad_size_divisor=32)
    return cfg


def trained(folder, student, teacher, step) -> str:
    """The log of one iteration behind a pipeline with a Normalize."""
    run = runner(
        distill_cfg(student, teacher),
        folder,
        epochs=1,
        train_dataloader=dict(dataset=dict(type='mmengine.Normalised', step=step)),
    )
    run.train()
    return next(folder.glob('*/*.log')).read_text()


@pytest.mark.parametrize('step', ['mmcv', 'torchvision', 'inside'])
def test_images_normalised_in_the_pipeline_and_for_the_teacher_are_refused(
    tmp_path, step
):
    with pytest.raises(ConfigError, match='pipeline has Normalize.*move mean, std'):
        trained(tmp_path, raw(), toys.retinanet(), step)


def test_what_may_be_meant_of_a_pipeline_that_normalises_is_a_warning_or_fine(tmp_path):
    told = trained(tmp_path / 'scaled', raw(), toys.retinanet(), 'scaled')
    assert told.count('pipeline has Normalize') == 1
    for folder, sides, step in (
        ('nothing', (raw(), toys.retinanet()), 'nothing'),
        ('both', (raw(), raw()), 'mmcv'),
        ('same', (toys.retinanet(), toys.retinanet()), 'mmcv'),
    ):
        log = trained(tmp_path / folder, *sides, step)
        assert 'pipeline has' not in log and 'pixels' not in log


@MODELS.register_module(force=True)
class Halves(BaseDataPreprocessor):
    """Normalises in its own way."""

    def __init__(self):
        super().__init__()
        self.inner = DetDataPreprocessor(pad_size_divisor=32)

    def forward(self, data, training=False):
        data = self.inner(data, training)
        return data | dict(inputs=data['inputs'] / 2)


def test_a_preprocessor_that_nobody_knows_is_told_once(tmp_path):
    student = toys.retinanet()
    student.data_preprocessor = dict(type='mmengine.Halves')
    log = trained(tmp_path, student, toys.retinanet(), 'nothing')
    assert log.count('model.student.data_preprocessor Halves does not say') == 1
    assert log.count('does not say') == 1
