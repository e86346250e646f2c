"""New-style configs (``read_base()``, classes, no default scope) in every tool."""

import pickle

import pytest
import torch
from mmengine.config import Config
from new_style import CLASSIFIER, DETECTOR, DISTILLED

from kd_mm.utils.cli import load_config
from kd_mm.utils.export import build_plain, is_distilled, plain_student
from kd_mm.utils.kinds import mentions, type_name
from kd_mm.utils.loading import load_model_config
from kd_mm.utils.overrides import check_top_level


@pytest.fixture
def new(toy):
    """The toy folder with new-style ``detector.py``, ``new.py`` and ``cls.py``."""
    (toy / 'detector.py').write_text(DETECTOR.replace('{folder}', str(toy)))
    (toy / 'cls.py').write_text(CLASSIFIER.replace('{folder}', str(toy)))
    teacher = repr(str(toy / 'detector.py'))
    (toy / 'new.py').write_text(DISTILLED.replace('{teacher}', teacher))
    return toy


def is_plain(path):
    """The config in an exported checkpoint, when nothing of the distiller is in it."""
    content = torch.load(path, weights_only=True)
    cfg = Config.fromstring(content['meta']['cfg'], '.py')
    assert 'kd_mm' not in cfg.pretty_text and 'teacher' not in cfg.pretty_text
    build_plain(cfg).load_state_dict(content['state_dict'], strict=True)
    return cfg


def test_all_tools_take_a_new_style_config(new, run, capsys):
    work, config = new / 'work', new / 'new.py'
    assert run('train', config, '--work-dir', work) == (0, [])
    checkpoint = work / 'epoch_1.pth'
    for used in (config, work / 'new.py'):  # as written, and as dumped by the run
        out = new / f'{used.parent.name}.pkl'
        options = ('--work-dir', new / 'test', '--out', out, '--show-dir', 'drawn')
        assert run('test', used, checkpoint, *options) == (0, [])
        assert len(pickle.loads(out.read_bytes())) == 8
    assert list((new / 'test').rglob('drawn/*.png'))

    student = new / 'student.pth'
    assert run('export_student', checkpoint, student) == (0, [])
    assert type_name(is_plain(student).model) == 'RetinaNet'
    options = ('--config', config, '--force')
    assert run('export_student', checkpoint, student, *options) == (0, [])
    is_plain(student)
    assert run('test', new / 'detector.py', student, '--work-dir', new / 't') == (0, [])

    out = ('--images', 16, '--out', new / 'report')
    assert run('analyse_channels', config, '--student', student, *out) == (0, [])
    areas = (config, checkpoint, new / '0.png', '--out', new / 'areas')
    assert run('draw_areas', *areas) == (0, [])
    assert list((new / 'areas').rglob('areas_fpn_0_*.png'))
    teacher = f'{new / "detector.py"}={student}'
    rank = ('--steps', 2, *out, '--student', student, '--evaluate')
    assert run('rank_teachers', config, teacher, *rank) == (0, [])


def test_amp_with_a_new_style_config(new, run):
    if torch.cuda.is_available():
        pytest.skip('there is an accelerator')
    options = ('--work-dir', new / 'work', '--amp')
    parts = 'model.links.fpn.'
    changes = (f'{parts}criterion.weight=2', f'{parts}stages.1.type=kd_mm.DAFA')
    options = (*options, '--cfg-options', *changes)
    with torch.backends.mkldnn.flags(enabled=False):  # see test_cli.py
        assert run('train', new / 'new.py', *options) == (0, [])
    dumped = load_config(str(new / 'work' / 'new.py'))
    assert dumped.model.links.fpn.criterion.weight == 2


def test_a_new_style_classifier(new, run):
    work = new / 'work'
    assert run('train', new / 'cls.py', '--work-dir', work) == (0, [])
    student = new / 'student.pth'
    assert run('export_student', work / 'epoch_1.pth', student) == (0, [])
    assert type_name(is_plain(student).model) == 'ImageClassifier'
    options = ('--work-dir', new / 'test', '--out', new / 'cls.pkl')
    assert run('test', new / 'cls.py', student, *options) == (0, [])


def test_a_plain_run_without_default_scope_is_exported(new, run):
    assert run('train', new / 'detector.py', '--work-dir', new / 'work') == (0, [])
    student = new / 'student.pth'
    assert run('export_student', new / 'work' / 'epoch_1.pth', student) == (0, [])
    assert is_plain(student).default_scope is None


@pytest.mark.parametrize('style', ['path', 'inline', 'whole'])
def test_a_new_style_teacher_is_read(new, style):
    cfg = load_config(str(new / 'detector.py'))
    inline = dict(path=str(new / 'detector.py'), inline=cfg.model, whole=dict(cfg))
    model, scope = load_model_config(inline[style])
    assert type_name(model) == 'RetinaNet'
    assert scope == 'mmdet'  # where its class comes from
    model, _ = load_model_config(str(new / 'new.py'))  # of a distilled one the student
    assert type_name(model) == 'RetinaNet'


def test_plain_student_leaves_no_teacher_under_another_name(new):
    text = (new / 'new.py').read_text()
    base = 'from .detector import *'
    inline = text.replace(base, f'{base}\n    from .detector import model as guide')
    inline = inline.replace(repr(str(new / 'detector.py')), 'dict(model=guide)')
    (new / 'inline.py').write_text(inline)
    cfg = load_config(str(new / 'inline.py'))
    assert is_distilled(cfg.model) and 'guide' in cfg
    plain = plain_student(cfg)
    assert 'guide' not in plain and not mentions(plain.to_dict(), 'kd_mm')
    assert 'constructor' not in plain.optim_wrapper and not plain.custom_hooks


MISTAKES = {
    'Failed to import ConvAdaptr': ('ConvAdapter', 'ConvAdaptr'),
    'detectr.py not found': ('.detector import *', '.detectr import *'),
    'CWDLoss.tua is unknown': ('tau', 'tua'),
    'not a criterion': ('criterion=dict(type=CWDLoss', 'criterion=dict(type=DAM'),
}


@pytest.mark.parametrize('message', MISTAKES)
def test_a_mistake_in_a_new_style_config_is_one_line(new, run, message):
    text = (new / 'new.py').read_text()
    changed = text.replace(*MISTAKES[message]).replace('DAM, tau=1.0', 'DAM')
    (new / 'new.py').write_text(changed)
    code, lines = run('train', new / 'new.py', '--work-dir', new / 'work')
    assert code == 2 and len(lines) == 1 and message in lines[0], lines
    assert changed != text and not (new / 'work').exists()


def test_imported_names_are_no_misspelt_keys(new):
    text = (new / 'detector.py').read_text()
    text = text.replace('visualizer = dict(', 'shown = dict(')
    text = text.replace('import CheckpointHook', 'import Visualizer, CheckpointHook')
    (new / 'detector.py').write_text(text)
    check_top_level(load_config(str(new / 'detector.py')))
