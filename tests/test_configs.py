"""Every shipped config can be read and, when it distils, built."""

import functools
import re
from pathlib import Path

import pytest
import torch
import yaml
from helpers import classification_batch, detection_batch, losses_of
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, DefaultScope

import kd_mm  # noqa: F401  makes `kd_mm::` known to MMEngine
from kd_mm.link import Link
from kd_mm.schedule import Progress
from kd_mm.utils.kinds import is_type

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(
    path
    for path in (ROOT / 'configs').glob('kd*/**/*.py')
    if '_base_' not in path.parts
)
names = {'ids': lambda path: str(path.relative_to(ROOT / 'configs'))}


@functools.cache
def read(path):
    """A config; shared by the tests, which do not change it."""
    return Config.fromfile(path)


def without_weights(value):
    """A copy of a config without what would be downloaded or read."""
    if isinstance(value, dict):
        return ConfigDict(
            {k: without_weights(v) for k, v in value.items() if k != 'init_cfg'}
        )
    if isinstance(value, list | tuple):
        return type(value)(without_weights(v) for v in value)
    return value


def build(cfg):
    model = without_weights(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    if is_type(model, 'kd_mm.Distill'):
        model.teacher.update(checkpoint=None, allow_random=True)
        if cfg.default_scope == 'mmdet' and 'trial_size' not in model:
            model.trial_size = (128, 128)  # widths do not depend on it
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(model)


@pytest.mark.parametrize('path', CONFIGS, **names)
def test_a_shipped_config_is_short_and_has_all_a_run_needs(path):
    text = path.read_text()
    cfg = read(path)
    for key in ('model', 'train_dataloader', 'val_evaluator', 'optim_wrapper'):
        assert cfg.get(key), key
    if is_type(cfg.model, 'kd_mm.Distill'):
        assert len(text.splitlines()) <= 25
        assert 'type' in cfg.model.student and 'config' in cfg.model.teacher
    assert 'shared' not in text


@pytest.mark.parametrize('path', CONFIGS, **names)
def test_a_shipped_config_builds(path):
    cfg = read(path)
    model = build(cfg)
    if is_type(cfg.model, 'kd_mm.Distill'):
        assert set(model.distiller.links) == set(cfg.model.links)
        plain = without_weights(cfg.model.student)
        if cfg.get('data_preprocessor') is not None:
            plain.setdefault('data_preprocessor', cfg.data_preprocessor)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            student = MODELS.build(plain)
        own = [k for k in model.state_dict() if not k.startswith('distiller.')]
        assert own == list(student.state_dict())


@pytest.mark.parametrize('path', CONFIGS, **names)
def test_a_shipped_schedule_arrives_before_training_ends(path):
    cfg = read(path)
    if is_type(cfg.model, 'kd_mm.Distill'):
        epochs = cfg.train_cfg.max_epochs
        for name, link in cfg.model.links.items():
            Link(name=name, **link).check_time(Progress(0, 0, epochs, 1000 * epochs))


def test_model_index_names_existing_configs_and_collections():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    listed = set()
    for name in index['Import']:
        meta = yaml.safe_load((ROOT / name).read_text())
        collections = {entry['Name'] for entry in meta['Collections']}
        for model in meta['Models']:
            assert (ROOT / model['Config']).is_file(), model['Config']
            assert model['In Collection'] in collections
            listed.add(model['Config'])
    pairs = {
        str(path.relative_to(ROOT))
        for path in CONFIGS
        if path.parent.name == 'kd' or is_type(read(path).model, 'kd_mm.Distill')
    }
    assert pairs <= listed


def test_packaged_configs_are_found_by_name():
    folder = Path(kd_mm.__file__).parent / '.mim'
    if not folder.exists():
        pytest.skip('kd_mm is not installed')
    assert (folder / 'tools' / 'train.py').is_file()
    assert (folder / 'model-index.yml').is_file()
    cfg = Config.fromstring("_base_ = 'kd_mm::kd/gfl_r101_r50_cwd.py'\n", '.py')
    assert cfg.model.type == 'kd_mm.Distill'


def test_coco_s320_teacher_fits_its_checkpoint(data_folder):
    cfg = Config.fromfile(ROOT / 'configs/kd/coco_s320/yolox_nano_coco_s320.py')
    path = data_folder / 'weights' / 'yolox_nano_coco_mmdet.pth'
    state = torch.load(path, map_location='cpu', weights_only=False)['state_dict']
    build(cfg).load_state_dict(state, strict=True)


# without reading them all before the first test
DISTILS = re.compile('links|pairs|Distill|teacher=')
PLAIN = [path for path in CONFIGS if not DISTILS.search(path.read_text())]


@pytest.mark.parametrize('path', PLAIN, **names)
def test_a_shipped_student_or_teacher_takes_a_training_batch(path):
    cfg = read(path)
    assert not is_type(cfg.model, 'kd_mm.Distill')
    model = build(cfg)
    model.init_weights()
    MessageHub.get_current_instance().update_info('iter', 0)  # multi-scale YOLOX reads
    if cfg.default_scope == 'mmdet':
        batch = detection_batch(sizes=[(3, 128, 128)] * 2)
        for sample in batch['data_samples']:
            sample.gt_instances.labels.clamp_(max=cfg.model.bbox_head.num_classes - 1)
    else:
        batch = classification_batch(2, size=32)
    losses = losses_of(model.train(), batch)
    total, _ = model.parse_losses(losses)
    assert total.isfinite()
