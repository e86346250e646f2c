"""Backbones as teachers: their own features, on the student's grid, and their cost."""

import sys
from fractions import Fraction

import pytest
import query_toys
import torch
import toys
from conftest import ROOT
from helpers import build, detection_batch, distill_cfg, losses_of, train_steps
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope
from torch import nn

import kd_mm
from kd_mm.errors import ConfigError
from kd_mm.preprocess import InputBridge, crop
from kd_mm.teacher import Teacher, fetches

sys.path.insert(0, str(ROOT / 'benchmarks'))

import foundations  # noqa: E402

PIXELS = dict(bgr_to_rgb=True)
VIT = dict(
    type='mmpretrain.VisionTransformer',
    arch=dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48),
    img_size=70,
    patch_size=14,
)
LAST = 'backbone.layers.1'


def link(teacher: str, *stages: dict, level: int = 1, **criterion) -> dict:
    stages = [*stages, dict(type='kd_mm.ConvAdapter')]
    levels = dict(student=[level], teacher=[0])
    criterion = criterion or dict(type='kd_mm.CosineLoss')
    own = dict(student='neck', levels=levels, stages=stages, criterion=criterion)
    return dict(x=dict(own, teacher=teacher))


def taught(config=VIT, links=None, student=None, **guide):
    links = links or link(LAST, dict(type='kd_mm.TokensToMap'))
    guide = dict(data_preprocessor=PIXELS, grid=16) | guide
    cfg = distill_cfg(student or toys.retinanet(), config, links, teacher_kwargs=guide)
    with DefaultScope.overwrite_default_scope('mmdet'):
        torch.manual_seed(0)
        model = MODELS.build(cfg | dict(trial_size=None))
    model.init_weights()
    return model.train()


@pytest.mark.parametrize('name', foundations.NETWORKS)
def test_features_are_those_of_the_library(name):
    if 'timm' in name:
        pytest.importorskip('timm')
    assert float(foundations.compare(name)['largest_difference']) < 1e-5


def test_a_patch_of_14_teaches_a_level_of_stride_16():
    model = taught()
    own = build(toys.retinanet()).state_dict()
    assert own.keys() == {k for k in model.state_dict() if 'distiller.' not in k}
    batch = detection_batch(sizes=[(3, 96, 128), (3, 128, 70)])
    logged = [log['loss_kd_x'] for log in train_steps(model, batch, 4, lr=0.02)]
    assert 0 < logged[-1] < logged[0]
    pairs = []
    model.distiller.links['x'].criterion.register_forward_pre_hook(
        lambda _, args: pairs.append(args[0])
    )
    losses_of(model, batch)
    assert [f.shape[2:] for f in (*pairs[0].student, *pairs[0].teacher)] == [(8, 8)] * 2


class Ramp(nn.Module):
    """Images that say where each of their pixels lies: x and y, from 0.5."""

    @staticmethod
    def of(height: int, width: int) -> torch.Tensor:
        y, x = torch.meshgrid(
            torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing='ij'
        )
        return torch.stack([x, y, x])[None]


def centres(image: torch.Tensor, patch: int) -> torch.Tensor:
    """``(2, h, w)``: where the cells of a network of such patches lie."""
    return nn.functional.avg_pool2d(image, patch)[0, :2]


@pytest.mark.parametrize('shift', [0, 1])
@pytest.mark.parametrize('size', [(192, 160), (165, 211), (330, 215)])
@pytest.mark.parametrize(
    ('ratio', 'patch', 'cell', 'stride'),
    [
        (Fraction(14, 16), 14, 16, 16),
        (Fraction(14, 8), 14, 8, 8),
        (Fraction(14, 32), 14, 32, 32),
        (Fraction(16, 8), 16, 8, 8),
        (Fraction(3, 2), 24, 2, 16),
    ],
)
def test_cells_of_both_lie_on_each_other(ratio, patch, cell, stride, size, shift):
    """To a hundredth of a pixel, wherever the batch's end does not come in."""
    cfg = dict(type='mmengine.ImgDataPreprocessor')
    sides = dict(student=MODELS.build(cfg), teacher=MODELS.build(cfg))
    bridge = InputBridge(**sides, ratio=ratio, cell=cell)
    image = Ramp.of(*size)
    own = bridge(image, [])
    padded = bridge._padded(own, patch)  # as patch embeddings do
    theirs = centres(padded, patch)[None]
    theirs = crop(theirs, tuple(padded.shape[2:]), bridge.shown(size))[0]
    grown = nn.functional.pad(image, (0, -size[1] % stride, 0, -size[0] % stride))
    ours = centres(grown, stride)
    assert ours.shape == theirs.shape
    theirs = theirs.roll(shift, -1)
    error = (ours - theirs)[0, 1:-2, 1 + shift : -2]
    assert float((error - shift * stride).abs().max()) < 0.01


def test_a_checkpoint_of_the_network_or_of_a_model_around_it(tmp_path):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        network = MODELS.build(VIT)
    state = network.state_dict()
    around = {f'backbone.{k}': v for k, v in state.items()} | {'head.w': torch.ones(1)}
    for name, saved in dict(alone=state, around=around).items():
        torch.save(saved, path := tmp_path / f'{name}.pth')
        guide = Teacher(config=VIT, checkpoint=path, data_preprocessor=PIXELS)
        own = guide.model.backbone.state_dict()
        assert all(torch.equal(own[key], value) for key, value in state.items())
    assert Teacher(config=network, data_preprocessor=PIXELS).model.backbone is network


def test_a_packaged_headless_config_needs_no_scope():
    guide = dict(data_preprocessor=None, grid=16)
    path = 'mmpretrain::eva02/eva02-tiny-p14_headless.py'
    model = taught(
        path, link('backbone.layers.11', dict(type='kd_mm.TokensToMap')), **guide
    )
    assert model.distiller.teacher.ratio == Fraction(14, 16)


def test_weights_that_a_network_fetches_need_no_checkpoint(monkeypatch):
    pytest.importorskip('timm')
    made = dict(type='mmpretrain.TIMMBackbone', model_name='resnet10t')
    with pytest.raises(ConfigError, match='checkpoint is missing'):
        Teacher(config=made, data_preprocessor=PIXELS)
    monkeypatch.setattr('timm.create_model', lambda **_: nn.Conv2d(3, 4, 3))
    Teacher(config=dict(made, pretrained=True), data_preprocessor=PIXELS)


@pytest.mark.parametrize('wanted', [True, False])
def test_a_file_whose_network_fetches_its_weights_needs_none(tmp_path, wanted):
    path = tmp_path / 'timm.py'
    made = dict(type='mmpretrain.TimmClassifier', model_name='a', pretrained=wanted)
    path.write_text(f'model = {made!r}\n')
    student = Config(dict(model=dict(type='mmpretrain.ImageClassifier')))
    for teacher in (path, Config.fromfile(path), made):
        if wanted:
            assert kd_mm.distil(student, teacher).model.teacher.checkpoint is None
            continue
        with pytest.raises(ConfigError, match='the teacher has no weights'):
            kd_mm.distil(student, teacher)
    assert fetches(str(path)) is wanted


@pytest.mark.parametrize(
    ('said', 'match'),
    [
        (
            dict(data_preprocessor=None),
            'VisionTransformer is a network without a data_',
        ),
        (dict(scale=2.0), 'give one of both'),
        (dict(config=toys.classifier()), 'ImageClassifier has one of its own'),
        (
            dict(config=dict(type='torchvision.models.resnet18')),
            'grid: ResNet does not cut its images into patches .*take teacher.scale',
        ),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else '',
)
def test_what_cannot_be_is_said(said, match):
    given = dict(config=VIT, grid=16, data_preprocessor=PIXELS, allow_random=True)
    with pytest.raises(ConfigError, match=match):
        Teacher(**given | said)


def test_maps_with_their_channels_last_are_refused():
    swin = foundations.NETWORKS['torchvision Swin'][0]
    with pytest.raises(ConfigError, match='channels last.*backbone.permute'):
        taught(swin, link('backbone.features'), grid=None)
    taught(swin, link('backbone.permute', level=0), grid=None)


def test_the_cost_is_told_before_training(monkeypatch):
    told = []
    monkeypatch.setattr(MMLogger, 'info', lambda _, text, *args: told.append(str(text)))
    stages = [dict(type='kd_mm.TokensToMap'), dict(type='kd_mm.Resize')]
    taught(links=link(LAST, *stages), scale=2.0, grid=None)
    (said,) = [text for text in told if 'GFLOP' in text]
    assert 'on images of 160 x 224' in said and 'as 320 x 448' in said
    patches, dims = 23 * 32 + 1, 24
    layer = 12 * patches * dims**2 - 4 * patches * dims**2 + 2 * patches**2 * dims
    expected = 2 * (736 * 3 * 14**2 * dims + 2 * layer) / 1e9
    assert float(said.split('computes ')[1].split()[0]) == pytest.approx(
        expected, rel=0.02
    )


def test_an_image_of_another_size_tells_the_samples(monkeypatch):
    """DETR draws its masks from them."""
    links = dict(
        x=dict(
            student='neck', teacher='neck', criterion=dict(type='kd_mm.SPLoss'),
            levels=dict(student=[0], teacher=[0]),
        )
    )  # fmt: skip
    said = dict(grid=None, scale=0.5, data_preprocessor=None)
    model = taught(query_toys.detr(), links, **said)
    guide, told = model.distiller.teacher.model, []
    guide.register_forward_pre_hook(lambda _, args: told.append(args))
    losses_of(model, detection_batch(sizes=[(3, 96, 128), (3, 128, 70)]))
    inputs, samples = told[0]
    assert inputs.shape[2:] == (64, 64)
    assert [s.img_shape for s in samples] == [(48, 64), (64, 35)]
    assert {s.batch_input_shape for s in samples} == {(64, 64)}
