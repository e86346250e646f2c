"""A config that came inside a checkpoint is data: none of it runs."""

import pytest
import torch
import toys
from helpers import build
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

from kd_mm.errors import ConfigError
from kd_mm.utils.config_text import (
    read_config_text,
    refuse_remote_code,
    registered_types_only,
)
from kd_mm.utils.export import export_student


def test_what_mmengine_writes_is_read_without_running_it():
    cfg = Config(
        dict(
            model=toys.faster_rcnn(),
            plain=[1, -2.5, None, True, ('a', b'b'), {'a b': {1}}, 'it\'s "so"'],
            low=float('-inf'),
            empty=dict(),
        )
    )
    found = read_config_text(cfg.pretty_text, where='x')
    assert found.to_dict() == cfg.to_dict()


@pytest.mark.parametrize(
    'line',
    [
        'import os',
        "a = __import__('os').system('true')",
        "a = dict(b=open('x', 'w'))",
        "a = dict(open('x', 'w'))",
        'a = [b for b in range(3)]',
        'a = {**dict(b=1)}',
        "a = dict(**{'b': 1})",
        "a = f'{print(1)}'",
        'a.b = 1',
        'a, b = 1, 2',
        'print(1)',
    ],
)
def test_code_is_refused_with_its_line(line):
    with pytest.raises(ConfigError, match='in a.pth holds code in line 2 .*--config'):
        read_config_text(f'x = 1\n{line}\n', where='the config in a.pth')
    for text in ('a = = 1', 'a = ' + '(' * 500, 'a = "\0"'):
        with pytest.raises(ConfigError, match='cannot be read'):
            read_config_text(text, where='x')


@pytest.mark.parametrize(
    'model',
    [
        "dict(type='mmengine.call_command', cmd=['touch', '{}'])",
        "dict(type='subprocess.run', args=['touch', '{}'])",
        "dict(type='RetinaNet', backbone=dict(type='os.mkdir', path='{}'))",
        "dict(type=__import__('os').mkdir('{}'))",
    ],
)
def test_export_runs_nothing_of_the_config_in_a_checkpoint(tmp_path, model):
    marker, path = tmp_path / 'ran', tmp_path / 'a.pth'
    text = f"default_scope = 'mmdet'\nmodel = {model.format(marker)}\n"
    torch.save(dict(state_dict={'a': torch.ones(1)}, meta=dict(cfg=text)), path)
    with pytest.raises(ConfigError):
        export_student(str(path), str(tmp_path / 'out.pth'))
    assert not marker.exists()


def test_types_by_their_full_names_build_when_a_toolbox_has_registered_them():
    """As configs in MMEngine's new style name them, once they are dumped."""
    cfg = toys.retinanet()
    cfg.type = 'mmdet.models.detectors.retinanet.RetinaNet'
    cfg.bbox_head.bbox_coder.type = 'mmdet.models.task_modules.DeltaXYWHBBoxCoder'
    with registered_types_only():
        build(cfg)
        assert MODELS.build(dict(type='torch.nn.modules.activation.SiLU'))
        for kind in ('mmengine.call_command', 'os.getcwd', 'torch.hub.load'):
            with pytest.raises(KeyError, match='not in the'):
                MODELS.build(ConfigDict(type=kind))
        MODELS.register_module('Fetches', module=lambda name: name, force=True)
        with pytest.raises(ConfigError, match='is a function'):
            MODELS.build(dict(type='Fetches', name='evil/repository'))
    assert MODELS.get('Fetches')
    with pytest.raises(ConfigError, match='a.pth has trust_remote_code=True'):
        asks = dict(head=[dict(type='HuggingFaceHead', trust_remote_code=True)])
        refuse_remote_code(asks, where='a.pth')
    assert MODELS.get('os.getcwd')  # as it was
