"""Backbones for small images: size, shape, arithmetic, taps."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import build, classification_batch, distill_cfg, fitnet, train_steps
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from kd_mm.backbones import (
    VGGCIFAR,
    MobileNetV1,
    MobileNetV2CIFAR,
    ResNetCIFAR,
    ShuffleNetV1CIFAR,
    ShuffleNetV2CIFAR,
    WideResNetCIFAR,
)
from kd_mm.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
MODEL_CONFIGS = ROOT / 'configs/kd_cls/_base_/models'
# Parameters in thousands for 100 classes, from the public releases' tables and, for
# those that these do not list, from the papers' formulas.
PUBLISHED = dict(
    resnet20=278, resnet32=473, resnet56=862, resnet110=1737, resnet8x4=1234,
    resnet32x4=7434, wrn_16_2=703, wrn_40_1=570, wrn_40_2=2255, vgg8=3965, vgg13=9462,
    mobilenet_v2=813, shufflenet_v1=949, shufflenet_v2=1356, resnet50=23705,
)  # fmt: skip


def classifier(name: str):
    cfg = Config.fromfile(MODEL_CONFIGS / f'{name}.py').model
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(cfg)


@pytest.mark.parametrize('name', PUBLISHED)
def test_has_the_published_number_of_parameters_and_classifies(name):
    model = classifier(name).eval()
    count = sum(p.numel() for p in model.parameters())
    assert round(count / 1000) == PUBLISHED[name]
    with torch.no_grad():
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 100)


@pytest.mark.parametrize(
    ('backbone', 'shapes'),
    [
        (ResNetCIFAR(depth=14, out_indices=(0, 1, 2)), [(16, 32), (32, 16), (64, 8)]),
        (
            WideResNetCIFAR(depth=16, widen=2, out_indices=(0, 2)),
            [(32, 32), (128, 8)],
        ),
        (
            VGGCIFAR(depth=8, out_indices=range(5)),
            [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)],
        ),
        (
            MobileNetV2CIFAR(out_indices=(1, 2, 4, 6)),
            [(12, 16), (16, 8), (48, 4), (1280, 2)],
        ),
        (
            ShuffleNetV1CIFAR(out_indices=(0, 1, 2)),
            [(240, 16), (480, 8), (960, 4)],
        ),
        (ShuffleNetV2CIFAR(out_indices=(1, 2)), [(232, 8), (1024, 4)]),
        (MobileNetV1(out_indices=(0, 1, 4)), [(64, 16), (128, 8), (1024, 1)]),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, 'forward') else '',
)
def test_returns_the_stages_asked_for(backbone, shapes):
    outs = backbone(torch.randn(2, 3, 32, 32))
    assert [tuple(o.shape) for o in outs] == [(2, c, n, n) for c, n in shapes]


def norm(x, state, name):
    mean, var = state[f'{name}.running_mean'], state[f'{name}.running_var']
    return F.batch_norm(x, mean, var, state[f'{name}.weight'], state[f'{name}.bias'])


def shaken(backbone):
    """The state of a network whose statistics are not those of its start."""
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                tensor.data.normal_(0, 0.1)
            for tensor in (module.running_var, module.weight):
                tensor.data.uniform_(0.5, 1.5)
    backbone.train(False)
    return backbone.double().state_dict()


@pytest.mark.parametrize('shortcut', ['A', 'B'])
def test_resnet_equals_its_formula(shortcut):
    net = ResNetCIFAR(depth=14, channels=(4, 4, 8, 16), shortcut=shortcut)
    state, x = shaken(net), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    out = norm(F.conv2d(x, state['conv1.weight'], padding=1), state, 'bn1').relu()
    for stage, width in ((1, 4), (2, 8), (3, 16)):
        for block in range(2):
            key = f'layer{stage}.{block}'
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.conv2d(out, state[f'{key}.conv1.weight'], stride=stride, padding=1)
            y = norm(y, state, f'{key}.bn1').relu()
            y = F.conv2d(y, state[f'{key}.conv2.weight'], padding=1)
            y = norm(y, state, f'{key}.bn2')
            if stride == 2 and shortcut == 'A':
                zeros = torch.zeros(2, width // 4, *y.shape[2:], dtype=y.dtype)
                out = torch.cat([zeros, out[:, :, ::2, ::2], zeros], 1)
            elif stride == 2:
                out = F.conv2d(out, state[f'{key}.downsample.0.weight'], stride=2)
                out = norm(out, state, f'{key}.downsample.1')
            out = (out + y).relu()
    torch.testing.assert_close(net(x)[0], out)


def test_wide_resnet_equals_its_formula():
    net = WideResNetCIFAR(depth=10, widen=2)
    state, x = shaken(net), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    out = F.conv2d(x, state['conv1.weight'], padding=1)
    for stage in (1, 2, 3):
        key, stride = f'layer{stage}.0', 1 if stage == 1 else 2
        act = norm(out, state, f'{key}.bn1').relu()
        y = F.conv2d(act, state[f'{key}.conv1.weight'], stride=stride, padding=1)
        y = norm(y, state, f'{key}.bn2').relu()
        y = F.conv2d(y, state[f'{key}.conv2.weight'], padding=1)
        out = y + F.conv2d(act, state[f'{key}.shortcut.weight'], stride=stride)
    torch.testing.assert_close(net(x)[0], norm(out, state, 'bn1').relu())


def shuffle(x, groups):
    order = torch.arange(x.shape[1]).view(groups, -1).T.flatten()
    return x[:, order]


def test_shufflenet_v1_block_equals_its_formula():
    from kd_mm.backbones.shufflenet_cifar import BlockV1

    x = torch.randn(2, 240, 8, 8, dtype=torch.float64)
    block = BlockV1(240, 240, stride=2, groups=3)
    state = shaken(block)
    y = norm(F.conv2d(x, state['conv1.weight'], groups=3), state, 'bn1').relu()
    y = shuffle(y, 3)
    y = F.conv2d(y, state['conv2.weight'], stride=2, padding=1, groups=60)
    y = F.conv2d(norm(y, state, 'bn2').relu(), state['conv3.weight'], groups=3)
    pooled = F.avg_pool2d(x, 3, 2, 1)
    expected = torch.cat([norm(y, state, 'bn3'), pooled], 1).relu()
    torch.testing.assert_close(block(x), expected)


def test_shufflenet_v2_block_equals_its_formula():
    from kd_mm.backbones.shufflenet_cifar import BlockV2

    x, block = torch.randn(2, 12, 8, 8, dtype=torch.float64), BlockV2(12)
    state = shaken(block)
    y = norm(F.conv2d(x[:, 6:], state['conv1.weight']), state, 'bn1').relu()
    y = norm(F.conv2d(y, state['conv2.weight'], padding=1, groups=6), state, 'bn2')
    y = norm(F.conv2d(y, state['conv3.weight']), state, 'bn3').relu()
    torch.testing.assert_close(block(x), shuffle(torch.cat([x[:, :6], y], 1), 2))


@pytest.mark.parametrize(
    ('build_it', 'message'),
    [
        (lambda: ResNetCIFAR(depth=21), '6 n'),
        (lambda: ResNetCIFAR(depth=20, shortcut='C'), "'A' or 'B'"),
        (lambda: ResNetCIFAR(depth=20, out_indices=(3,)), 'stages 0 to 2'),
        (lambda: WideResNetCIFAR(depth=20), '6 n'),
        (lambda: VGGCIFAR(depth=16), '8 or 13'),
        (lambda: MobileNetV2CIFAR(widen_factor=0.01), 'channels'),
        (lambda: MobileNetV1(out_indices=()), '0 to 4'),
    ],
)
def test_refuses_what_it_cannot_build(build_it, message):
    with pytest.raises(ConfigError, match=message):
        build_it()


@pytest.mark.parametrize(
    ('name', 'tap'),
    [
        ('resnet20', 'backbone.layer3.2.relu2@input'),
        ('wrn_16_2', 'backbone.relu@input'),
        ('vgg8', 'backbone.block4.relu@input'),
        ('shufflenet_v1', 'backbone.layer3.3.relu@input'),
        ('mobilenet_v2', 'backbone.blocks.6'),
    ],
)
def test_can_be_distilled_by_its_output_and_in_front_of_its_last_relu(name, tap):
    cfg = Config.fromfile(MODEL_CONFIGS / f'{name}.py').model
    cfg.data_preprocessor = dict(type='ClsDataPreprocessor', num_classes=100)
    links = {}
    for key, one in (('out', 'backbone'), ('pre', tap)):
        links[key] = dict(fitnet()['fpn'], student=one, teacher=one)
    model = build(distill_cfg(cfg, cfg, links) | dict(trial_size=(32, 32)))
    logs = train_steps(model, classification_batch(size=32), steps=1)
    assert min(logs[0]['loss_kd_out'], logs[0]['loss_kd_pre']) > 0
