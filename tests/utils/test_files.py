"""Files that others made: real checkpoints load, nothing in a file ever runs."""

import argparse
import collections
import io
import pathlib
import re

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from kd_mm.errors import ConfigError
from kd_mm.utils import files
from kd_mm.utils.files import check_checkpoint, read_checkpoint, through_mmengine


class Evil:
    """Its pickle writes a file when it is read."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path(self.marker),))


class Harmless:
    pass


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def trained():
    """A network with the optimizer's state of one step."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3, 4, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


def packaged():
    """What OpenMMLab's publish_model.py leaves, of MMDetection 2.x and 3.x."""
    meta = dict(
        env_info='sys.platform: linux',
        config="model = dict(type='RetinaNet')",
        seed=0,
        mmdet_version='2.3.0+9d4f4aa',
        CLASSES=('person', 'bicycle'),
        PALETTE=[(220, 20, 60), (119, 11, 32)],
        epoch=12,
        iter=87960,
        hook_msgs=dict(best_score=np.float64(0.374), best_ckpt='best.pth'),
        dataset_meta=dict(classes=['a'], palette=np.array([[0, 1, 2]], np.uint8)),
    )
    return dict(meta=meta, state_dict=network().state_dict())


def of_a_run():
    """What MMEngine's CheckpointHook writes."""
    model, optimizer = trained()
    hub = MessageHub('test_files')
    for step in range(3):
        hub.update_scalar('train/loss', 0.5 * step)
        hub.update_scalar('train/count', step)
    hub.update_info('best_score', np.float32(0.3))
    hub.update_info('best_iou', torch.tensor(0.3))
    hub.update_info('keep_ckpt_ids', [1, 2])
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    meta = dict(
        epoch=1,
        iter=4,
        cfg='a = 1',
        dataset_meta=ConfigDict(classes=('a',), palette=[(0, 0, 0)]),
        mmengine_version='0.10.12',
    )
    return dict(
        meta=meta,
        state_dict=model.state_dict(),
        message_hub=hub.state_dict(),
        optimizer=optimizer.state_dict(),
        param_schedulers=[scheduler.state_dict()],
        ema_state_dict={'steps': torch.tensor(3), **model.state_dict()},
    )


def options():
    """Training options of research code, as Timm and CRD keep them."""
    return argparse.Namespace(
        lr=0.1,
        decay=[150, 180],
        output=pathlib.PurePosixPath('out'),
        folder=pathlib.Path('a/b'),
        counts=collections.defaultdict(int, a=1),
        version=torch.__version__,
    )


def timm():
    model, optimizer = trained()
    return dict(
        epoch=3,
        arch='resnet18',
        state_dict=model.state_dict(),
        optimizer=optimizer.state_dict(),
        version=2,
        args=options(),
        amp_scaler=dict(scale=65536.0, growth_factor=2.0, _growth_tracker=0),
        state_dict_ema=model.state_dict(),
        metric=np.float64(76.3),
    )


def crd():
    model, optimizer = trained()
    return dict(
        opt=options(),
        epoch=240,
        model=model.state_dict(),
        best_acc=torch.tensor(79.4),
        optimizer=optimizer.state_dict(),
    )


def data_parallel():
    state = {f'module.{key}': v for key, v in network().state_dict().items()}
    return dict(state_dict=state, best_prec1=91.73)


def numpy_1():
    """Scalars and arrays under the names that NumPy had before 2.0."""
    content = dict(score=np.float64(0.3), palette=np.arange(6).reshape(2, 3))
    return dict(state_dict={'a': torch.ones(2)}, meta=content)


STRUCTURES = dict(
    packaged=packaged,
    of_a_run=of_a_run,
    timm=timm,
    crd=crd,
    data_parallel=data_parallel,
    bare=lambda: network().state_dict(),
    parameters=lambda: dict(network().named_parameters()),
    half=lambda: dict(state_dict=network().half().state_dict(), optimizer=None),
    numpy_1=numpy_1,
)


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
@pytest.mark.parametrize('structure', STRUCTURES)
def test_real_structures_load_without_trust(tmp_path, structure, legacy):
    path, content = tmp_path / 'a.pth', STRUCTURES[structure]()
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    if structure == 'numpy_1' and legacy:
        data = path.read_bytes()
        assert b'numpy._core.multiarray' in data
        path.write_bytes(data.replace(b'numpy._core.', b'numpy.core.'))
    for read in (read_checkpoint, check_checkpoint):
        found = read(str(path), key='checkpoint')
        assert list(found) == list(content)
        with torch.no_grad():
            torch.testing.assert_close(_tensors(found), _tensors(content))
    if structure == 'of_a_run':
        history = found['message_hub']['log_scalars']['train/loss']
        assert isinstance(history, HistoryBuffer) and history.mean() == 0.5


def _tensors(content):
    """All tensors inside, in order."""
    if isinstance(content, torch.Tensor):
        return [content]
    if isinstance(content, dict):
        return [t for value in content.values() for t in _tensors(value)]
    if isinstance(content, list | tuple):
        return [t for value in content for t in _tensors(value)]
    return []


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
@pytest.mark.parametrize('read', [read_checkpoint, check_checkpoint])
def test_a_hostile_file_is_refused_and_runs_nothing(tmp_path, read, legacy):
    path, marker = tmp_path / 'a.pth', tmp_path / 'ran'
    for content in (
        dict(state_dict={'a': Evil(marker)}),
        dict(state_dict={'a': torch.ones(1)}, meta=dict(x=[Evil(marker)])),
        Evil(marker),
    ):
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ConfigError) as refused:
            read(str(path), key='load_from')
        line = str(refused.value)
        assert '\n' not in line and f'load_from {path} holds ' in line
        assert 'pathlib' in line and '--trust' in line
        assert not marker.exists()


def test_what_is_refused_is_read_with_trust(tmp_path):
    content = dict(state_dict={'a': torch.ones(1)}, meta=Harmless())
    torch.save(content, path := tmp_path / 'a.pth')
    with pytest.raises(ConfigError, match=r'holds test_files\.Harmless, .*trust=True'):
        read_checkpoint(str(path), key='x', option='teacher=dict(trust=True)')
    found = read_checkpoint(str(path), key='x', trust=True)
    assert isinstance(found['meta'], Harmless)


def test_what_stands_for_getattr_gives_statistics_of_logs_only(tmp_path):
    """MMEngine's own allow-list has `getattr`, which reaches anything."""

    class Reach:
        def __reduce__(self):
            return (getattr, (HistoryBuffer, '__init__'))

    torch.save(dict(a=torch.ones(1), b=Reach()), path := tmp_path / 'a.pth')
    with pytest.raises(ConfigError, match='holds builtins.getattr'):
        read_checkpoint(str(path), key='x')


def whole_model(path):
    torch.save(network(), path)


def torchscript(path):
    torch.jit.script(network()).save(str(path))


NO_CHECKPOINTS = {
    'empty': (b'', 'is empty'),
    'text': (b'this is a text\nof two lines', "a text, .* 'this is a text of two"),
    'json': (b'{"a": 1}', 'is a text'),
    'html': (b'\n<!DOCTYPE html><html>Sign in</html>', "a web page.*'<!DOCTYPE"),
    'lfs': (b'version https://git-lfs.github.com/spec/v1\noid', 'git lfs pull'),
    'safetensors': (b'\x40\0\0\0\0\0\0\0{"a":{"dtype":"F32"', 'a safetensors file'),
    'hdf5': (b'\x89HDF\r\n\x1a\n\0\0', 'HDF5'),
    'noise': (bytes(range(255, 0, -1)), 'truncated or damaged, 255 bytes'),
    'zip': (b'PK\x03\x04 damaged', 'truncated or damaged, 12 bytes'),
    'list': (lambda p: torch.save([torch.ones(1)], p), 'holds a list'),
    'tensor': (lambda p: torch.save(torch.ones(1), p), 'holds a Tensor'),
    'no tensors': (lambda p: torch.save(dict(epoch=1), p), 'no tensors; .* epoch'),
    'nothing': (lambda p: torch.save({}, p), 'it holds nothing'),
    'model': (whole_model, r'holds torch\.nn\S+ \(a whole model: save its state_dict'),
    'script': (torchscript, 'is a TorchScript archive'),
    'folder': (pathlib.Path.mkdir, 'is a folder'),
    'missing': (lambda p: (p.parent / 'b.pth').touch(), 'does not exist; nearest: b'),
}


@pytest.mark.parametrize('read', [read_checkpoint, check_checkpoint])
@pytest.mark.parametrize('kind', NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_said_in_one_line(tmp_path, kind, read):
    make, message = NO_CHECKPOINTS[kind]
    path = tmp_path / 'a.pth'
    path.write_bytes(make) if isinstance(make, bytes) else make(path)
    with pytest.raises(ConfigError, match=message) as refused:
        read(str(path), key='teacher.checkpoint')
    line = str(refused.value)
    assert line.startswith(f'teacher.checkpoint {path} ') and '\n' not in line
    assert len(line) < 400


def test_a_trusted_whole_model_is_told_to_save_its_state(tmp_path):
    whole_model(path := tmp_path / 'a.pth')
    with pytest.raises(ConfigError, match=r'a whole model \(Sequential\)'):
        read_checkpoint(str(path), key='x', trust=True)


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
def test_a_file_truncated_at_any_byte_is_one_line(tmp_path, legacy):
    path = tmp_path / 'a.pth'
    content = dict(state_dict={'a': torch.ones(7)}, meta=dict(best=np.float64(1)))
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        for read in (read_checkpoint, check_checkpoint):
            with pytest.raises(ConfigError) as refused:
                read(str(path), key='checkpoint')
            assert re.search('is empty|is truncated|is a text', str(refused.value))
            assert '\n' not in str(refused.value)


def test_mmengine_fetches_and_we_read(tmp_path, monkeypatch):
    """Whatever a scheme of MMEngine does ends with ``torch.load``."""
    marker, buffer = tmp_path / 'ran', io.BytesIO()
    torch.save(dict(state_dict={'a': Evil(marker)}), buffer)

    def cloud(filename, map_location=None):
        return torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)

    monkeypatch.setattr(CheckpointLoader, '_schemes', {'cloud://': cloud})
    with pytest.raises(ConfigError, match='teacher.checkpoint cloud://a holds pathlib'):
        read_checkpoint('cloud://a', key='teacher.checkpoint')
    assert not marker.exists()
    buffer = io.BytesIO()
    torch.save(dict(state_dict={'a': torch.ones(1)}), buffer)
    assert (
        read_checkpoint('cloud://a', key='teacher.checkpoint')['state_dict']['a'] == 1
    )
    monkeypatch.setattr(CheckpointLoader, '_schemes', {'cloud://': dict().__getitem__})
    with pytest.raises(ConfigError, match='cloud://a cannot be fetched'):
        read_checkpoint('cloud://a', key='teacher.checkpoint')


def test_a_download_is_read_by_us_and_names_the_kept_file(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    kept = tmp_path / 'hub' / 'checkpoints' / 'a.pth'
    kept.parent.mkdir(parents=True)
    marker = tmp_path / 'ran'
    torch.save(dict(state_dict={'a': Evil(marker)}), kept)
    with pytest.raises(ConfigError, match='holds pathlib') as refused:
        read_checkpoint('https://example.org/a.pth', key='teacher.checkpoint')
    assert str(kept) in str(refused.value) and not marker.exists()
    torch.save(packaged(), kept)
    assert 'meta' in read_checkpoint('https://example.org/a.pth', key='x')


def test_all_that_mmengine_loads_goes_through_us(tmp_path):
    model, marker = network(), tmp_path / 'ran'
    path = str(tmp_path / 'a.pth')
    torch.save(dict(state_dict={'a': Evil(marker)}), path)
    before = CheckpointLoader.load_checkpoint
    with through_mmengine(trust=False, keys={path: 'load_from'}):
        with pytest.raises(ConfigError, match=f'load_from {path} holds'):
            load_checkpoint(model, path)
        torch.save(dict(state_dict=network().state_dict()), path)
        found = load_checkpoint(model, path)
    torch.testing.assert_close(model.state_dict(), found['state_dict'])
    assert not marker.exists()
    assert CheckpointLoader.load_checkpoint == before == files._fetch


@pytest.mark.parametrize(
    'pack',
    [
        lambda state: dict(model=state, epoch=3),
        lambda state: dict(net=state),
        lambda state: dict(state_dict={f'_orig_mod.{k}': v for k, v in state.items()}),
        lambda state: {f'module._orig_mod.{k}': v for k, v in state.items()},
        lambda state: dict(state_dict=state),
        lambda state: state,
    ],
)
def test_weights_are_found_where_mmengine_does_not_look(tmp_path, pack):
    path, model, other = str(tmp_path / 'a.pth'), network(), network()
    torch.save(pack(other.state_dict()), path)
    with through_mmengine(trust=False, keys={}):
        load_checkpoint(model, path)
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_real_files_load(data_folder):
    paths = sorted(map(str, (data_folder / 'weights').iterdir()))
    for path in paths:
        assert 'state_dict' in read_checkpoint(path, key='checkpoint')
        assert 'state_dict' in check_checkpoint(path, key='checkpoint')
    assert len(paths) >= 4


@pytest.mark.parametrize(
    'text',
    [
        'Weights only load failed. Unsupported global: GLOBAL a.b.C was not an allowed',
        "Can only create new object for nn.Parameter, but got <class 'a.b.C'>",
        'Weights only load failed. Unsupported class a.b.C',  # PyTorch before 2.5
    ],
)
def test_a_type_that_may_not_be_read_is_named_whatever_pytorch_says(text):
    why = files._why(io.BytesIO(b'not at the end'), RuntimeError(text), '--trust')
    assert why.startswith('holds a.b.C, which is no type of a checkpoint')
    assert why.endswith('--trust allows that')
