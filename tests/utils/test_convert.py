"""Public CIFAR checkpoints load strictly once they are converted."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from kd_mm.errors import ConfigError
from kd_mm.utils.convert import convert_checkpoint, convert_keys

CONFIGS = Path(__file__).resolve().parents[2] / 'configs/kd_cls'


def bn(name, width):
    """Keys of a batch norm; the counter came with PyTorch 0.4.1."""
    keys = ('weight', 'bias', 'running_mean', 'running_var')
    return {f'{name}.{key}': (width,) for key in keys} | {
        f'{name}.num_batches_tracked': ()
    }


def resnet(depth, channels):
    shapes = {'conv1.weight': (channels[0], 3, 3, 3)} | bn('bn1', channels[0])
    width_in = channels[0]
    for stage, width in enumerate(channels[1:], 1):
        for block in range((depth - 2) // 6):
            key = f'layer{stage}.{block}'
            first = width_in if block == 0 else width
            shapes[f'{key}.conv1.weight'] = (width, first, 3, 3)
            shapes[f'{key}.conv2.weight'] = (width, width, 3, 3)
            shapes |= bn(f'{key}.bn1', width) | bn(f'{key}.bn2', width)
            if block == 0 and (stage > 1 or width_in != width):
                shapes[f'{key}.downsample.0.weight'] = (width, width_in, 1, 1)
                shapes |= bn(f'{key}.downsample.1', width)
        width_in = width
    return shapes | {'fc.weight': (100, width_in), 'fc.bias': (100,)}


def wrn(depth, widen):
    widths = [16, 16 * widen, 32 * widen, 64 * widen]
    shapes = {'conv1.weight': (16, 3, 3, 3)}
    for stage in (1, 2, 3):
        for block in range((depth - 4) // 6):
            key = f'block{stage}.layer.{block}'
            width = widths[stage]
            width_in = width if block else widths[stage - 1]
            shapes[f'{key}.conv1.weight'] = (width, width_in, 3, 3)
            shapes[f'{key}.conv2.weight'] = (width, width, 3, 3)
            shapes |= bn(f'{key}.bn1', width_in) | bn(f'{key}.bn2', width)
            if width_in != width:
                shapes[f'{key}.convShortcut.weight'] = (width, width_in, 1, 1)
    shapes |= bn('bn1', widths[3])
    return shapes | {'fc.weight': (100, widths[3]), 'fc.bias': (100,)}


def vgg(convs):
    shapes, width_in = {}, 3
    for block, width in enumerate((64, 128, 256, 512, 512)):
        for conv in range(convs):
            key = f'block{block}.{3 * conv}'
            shapes[f'{key}.weight'] = (width, width_in, 3, 3)
            shapes[f'{key}.bias'] = (width,)
            shapes |= bn(f'block{block}.{3 * conv + 1}', width)
            width_in = width
    return shapes | {'classifier.weight': (100, 512), 'classifier.bias': (100,)}


def mobilenet():
    shapes = {'conv1.0.weight': (16, 3, 3, 3)} | bn('conv1.1', 16)
    width_in = 16
    rows = ((8, 1), (12, 2), (16, 3), (32, 4), (48, 3), (80, 3), (160, 1))
    for stage, (width, count) in enumerate(rows):
        for block in range(count):
            mid, key = width_in * (6 if stage else 1), f'blocks.{stage}.{block}.conv'
            shapes[f'{key}.0.weight'] = (mid, width_in, 1, 1)
            shapes[f'{key}.3.weight'] = (mid, 1, 3, 3)
            shapes[f'{key}.6.weight'] = (width, mid, 1, 1)
            shapes |= bn(f'{key}.1', mid) | bn(f'{key}.4', mid) | bn(f'{key}.7', width)
            width_in = width
    shapes |= {'conv2.0.weight': (1280, width_in, 1, 1)} | bn('conv2.1', 1280)
    return shapes | {'classifier.0.weight': (100, 1280), 'classifier.0.bias': (100,)}


def shuffle_v1():
    shapes, width_in = {'conv1.weight': (24, 3, 1, 1)} | bn('bn1', 24), 24
    for stage, (width, count) in enumerate(((240, 4), (480, 8), (960, 4)), 1):
        for block in range(count):
            key = f'layer{stage}.{block}'
            out = width if block else width - width_in
            first, mid = (width if block else width_in), out // 4
            groups = 1 if first == 24 else 3
            shapes[f'{key}.conv1.weight'] = (mid, first // groups, 1, 1)
            shapes[f'{key}.conv2.weight'] = (mid, 1, 3, 3)
            shapes[f'{key}.conv3.weight'] = (out, mid // 3, 1, 1)
            shapes |= bn(f'{key}.bn1', mid) | bn(f'{key}.bn2', mid)
            shapes |= bn(f'{key}.bn3', out)
        width_in = width
    return shapes | {'linear.weight': (100, 960), 'linear.bias': (100,)}


def shuffle_v2():
    shapes, width_in = {'conv1.weight': (24, 3, 1, 1)} | bn('bn1', 24), 24
    for stage, (width, count) in enumerate(((116, 3), (232, 7), (464, 3)), 1):
        half, key = width // 2, f'layer{stage}.0'
        shapes[f'{key}.conv1.weight'] = (width_in, 1, 3, 3)
        shapes[f'{key}.conv2.weight'] = (half, width_in, 1, 1)
        shapes[f'{key}.conv3.weight'] = (half, width_in, 1, 1)
        shapes[f'{key}.conv4.weight'] = (half, 1, 3, 3)
        shapes[f'{key}.conv5.weight'] = (half, half, 1, 1)
        shapes |= bn(f'{key}.bn1', width_in)
        for i in (2, 3, 4, 5):
            shapes |= bn(f'{key}.bn{i}', half)
        for block in range(1, count + 1):
            key = f'layer{stage}.{block}'
            for i in (1, 2, 3):
                one = (half, 1, 3, 3) if i == 2 else (half, half, 1, 1)
                shapes[f'{key}.conv{i}.weight'] = one
                shapes |= bn(f'{key}.bn{i}', half)
        width_in = width
    shapes |= {'conv2.weight': (1024, 464, 1, 1)} | bn('bn2', 1024)
    return shapes | {'linear.weight': (100, 1024), 'linear.bias': (100,)}


def resnet50():
    shapes, width_in = {'conv1.weight': (64, 3, 3, 3)} | bn('bn1', 64), 64
    for stage, count in enumerate((3, 4, 6, 3), 1):
        width = 32 * 2**stage
        for block in range(count):
            key = f'layer{stage}.{block}'
            shapes[f'{key}.conv1.weight'] = (width, width_in, 1, 1)
            shapes[f'{key}.conv2.weight'] = (width, width, 3, 3)
            shapes[f'{key}.conv3.weight'] = (4 * width, width, 1, 1)
            shapes |= bn(f'{key}.bn1', width) | bn(f'{key}.bn2', width)
            shapes |= bn(f'{key}.bn3', 4 * width)
            if block == 0:
                shapes[f'{key}.shortcut.0.weight'] = (4 * width, width_in, 1, 1)
                shapes |= bn(f'{key}.shortcut.1', 4 * width)
            width_in = 4 * width
    return shapes | {'linear.weight': (100, 2048), 'linear.bias': (100,)}


NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
RELEASES = dict(
    resnet20=resnet(20, NARROW),
    resnet110=resnet(110, NARROW),
    resnet8x4=resnet(8, WIDE),
    resnet32x4=resnet(32, WIDE),
    wrn_16_2=wrn(16, 2),
    wrn_40_1=wrn(40, 1),
    vgg8=vgg(1),
    vgg13=vgg(2),
    mobilenet_v2=mobilenet(),
    shufflenet_v1=shuffle_v1(),
    shufflenet_v2=shuffle_v2(),
    resnet50=resnet50(),
)


def content(name, prefix=''):
    return {prefix + key: torch.rand(shape) for key, shape in RELEASES[name].items()}


def load(name, path):
    cfg = Config.fromfile(CONFIGS / f'cifar100/{name}.py').model
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg)
    model.load_state_dict(torch.load(path)['state_dict'], strict=True)
    return model


@pytest.mark.parametrize('name', RELEASES)
def test_a_release_loads_strictly_after_conversion(name, tmp_path):
    state = content(name)
    path, out = tmp_path / 'public.pth', tmp_path / 'ours.pth'
    torch.save(dict(model=state, epoch=240, accuracy=0.7), path)
    config = CONFIGS / f'cifar100/{name}.py'
    convert_checkpoint(str(config), str(path), str(out))
    model = load(name, out)
    linear = next(v for k, v in state.items() if v.shape[:1] == (100,) and v.ndim == 2)
    assert torch.equal(model.head.fc.weight, linear)
    assert len(set(convert_keys(state))) == len(state)


@pytest.mark.parametrize('where', ['state_dict', 'net', None])
def test_finds_the_tensors_wherever_a_release_keeps_them(where, tmp_path):
    state = content('resnet8x4', 'module.')
    path, out = tmp_path / 'public.pth', tmp_path / 'ours.pth'
    torch.save({where: state} if where else state, path)
    config = str(CONFIGS / 'cifar100/resnet8x4.py')
    convert_checkpoint(config, str(path), str(out))
    key = 'layer2.0.downsample.0.weight'
    got = load('resnet8x4', out).backbone.get_parameter(key)
    assert torch.equal(got, state[f'module.{key}'])


def test_says_what_does_not_fit_and_writes_nothing(tmp_path):
    config = str(CONFIGS / 'cifar100/resnet8x4.py')
    path, out = tmp_path / 'public.pth', tmp_path / 'ours.pth'
    torch.save(content('resnet20'), path)
    with pytest.raises(ConfigError, match='missing|shape|size'):
        convert_checkpoint(config, str(path), str(out))
    torch.save(dict(model=3), path)
    with pytest.raises(ConfigError, match='holds no tensors'):
        convert_checkpoint(config, str(path), str(out))
    assert not out.exists()
    torch.save(content('resnet8x4'), path)
    out.write_text('mine')
    with pytest.raises(ConfigError, match='exists already'):
        convert_checkpoint(config, str(path), str(out))
    assert out.read_text() == 'mine'


@pytest.mark.parametrize(('depth', 'accuracy'), [(20, 85), (56, 88)])
def test_real_option_a_checkpoints_classify(depth, accuracy, data_folder, tmp_path):
    """A few hundred real images; the whole test set is what tools/test.py is for."""
    weights = next((data_folder / 'weights').glob(f'resnet{depth}-*.th'))
    config, out = CONFIGS / f'cifar10/resnet{depth}.py', tmp_path / 'ours.pth'
    convert_checkpoint(str(config), str(weights), str(out))
    cfg = Config.fromfile(config)
    cfg.model.data_preprocessor = cfg.data_preprocessor
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model).eval()
    model.load_state_dict(torch.load(out)['state_dict'], strict=True)
    hits = 0
    for images, labels in cifar10_test(data_folder, 300):
        data = model.data_preprocessor(dict(inputs=images), False)
        with torch.no_grad():
            hits += int((model(data['inputs']).argmax(1) == labels).sum())
    assert hits >= 3 * accuracy


def cifar10_test(data_folder, count):
    """The first test images of the subset, unpacked before or by its own script."""
    with tempfile.TemporaryDirectory() as folder:
        path = data_folder / 'cifar10/cifar.npz'
        if not path.is_file():
            script, pack = data_folder / 'unpack_cifar.py', data_folder / 'cifar10_pack'
            if not script.is_file():
                pytest.skip('no CIFAR-10 images beside the weights')
            subprocess.run([sys.executable, script, pack, folder], check=True)
            path = Path(folder) / 'cifar.npz'
        arrays = np.load(path)
        images = torch.tensor(arrays['x_test'][:count]).permute(0, 3, 1, 2)
        labels = torch.tensor(arrays['y_test'][:count]).long()
    return zip(images.split(100), labels.split(100), strict=True)
