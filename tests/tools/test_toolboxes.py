"""MMDetection or MMPretrain: with one of them hidden, the other works."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

# Everything after this runs as if the package were not installed.
HIDE = """
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] != {package!r}:
            return self.finder.find_spec(name, path, target)

sys.meta_path = [Hiding(finder) for finder in sys.meta_path]
sys.path.insert(0, {tests!r})
"""
COMMON = """
import json
import toys
import kd_mm.analysis.areas, kd_mm.analysis.report, kd_mm.analysis.teachers
from kd_mm import registry
from kd_mm.__main__ import main
from kd_mm.errors import ConfigError
from kd_mm.utils.cli import load_config
from mmengine.registry import DATASETS, MODELS, DefaultScope

for name in dir(registry):
    if name.isupper() and not name.startswith('MMENGINE'):
        getattr(registry, name).import_from_location()

def distill(student, teacher, tap):
    dafa = dict(type='kd_mm.DAFA', start=0, search_epochs=1)
    stages = [dict(type='kd_mm.ChannelAlign', fit_at='start'), dafa]
    stages += [dict(type='kd_mm.DAM', top_k=2, heatmaps=1)]
    prior = [dict(type='kd_mm.DPK', encoder=(16, 1, 2), decoder=(16, 1, 2))]
    mse = dict(type='kd_mm.MSELoss', weight=1.0)
    links = dict(
        one=dict(student=tap, teacher=tap, stages=stages, criterion=mse),
        two=dict(student=tap, teacher=tap, stages=prior, criterion=mse))
    guide = dict(config=teacher, allow_random=True)
    return dict(type='kd_mm.Distill', student=student, teacher=guide, links=links)

def said(build, *args, **kwargs):
    try:
        build(*args, **kwargs)
    except ConfigError as error:
        return str(error)

def train(config, folder):
    sys.argv = ['kd_mm', 'train', str(config), '--work-dir', str(folder)]
    sys.stderr, stderr = sys.stdout, sys.stderr
    try:
        return main()
    except SystemExit as error:
        return error.code
    finally:
        sys.stderr = stderr
"""


def run(script, package):
    """Run a script where ``package`` is not installed; the lines that it prints."""
    script += f'\nassert {package!r} not in sys.modules\n'
    head = HIDE.format(package=package, tests=str(ROOT / 'tests'))
    command = [sys.executable, '-W', 'ignore', '-c', head + COMMON + script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.slow
def test_classifiers_need_no_mmdetection(toy):
    script = f"""
with DefaultScope.overwrite_default_scope('mmpretrain'):
    model = MODELS.build(distill(toys.classifier(), toys.classifier(), 'backbone'))
assert sorted(model.distiller.links) == ['one', 'two']
assert not train('{toy}/classifier.py', '{toy}/work')
assert train('{toy}/plain.py', '{toy}/other') == 2
print(json.dumps([
    said(MODELS.build, distill(toys.retinanet(), toys.retinanet(), 'neck')),
    said(MODELS.build, distill(toys.classifier(), toys.retinanet(), 'backbone')),
    said(load_config, 'kd_mm::kd/retinanet_r101_r50_sokd.py')]))
"""
    *_, line, last = run(script, 'mmdet')
    assert (toy / 'work' / 'epoch_1.pth').exists()
    needs = 'needs MMDetection, but mmdet is not installed'
    assert line == f"error: default_scope='mmdet' {needs}"
    student, teacher, config = json.loads(last)
    assert student == f"student.type='mmdet.RetinaNet' {needs}"
    assert teacher == f"teacher.config.model.type='mmdet.RetinaNet' {needs}"
    assert 'mmdet' in config and 'installed' in config


@pytest.mark.slow
def test_detectors_need_no_mmpretrain(toy):
    script = f"""
student = toys.retinanet()
with DefaultScope.overwrite_default_scope('mmdet'):
    model = MODELS.build(distill(student, student, 'neck'))
assert sorted(model.distiller.links) == ['one', 'two']
assert not train('{toy}/distilled.py', '{toy}/work')
student.backbone = dict(type='mmpretrain.ResNet', depth=18)
cifar = dict(type='kd_mm.RepackedCIFAR', data_root='data')
print(json.dumps([
    said(MODELS.build, distill(student, student, 'neck')),
    said(DATASETS.build, cifar)]))
"""
    backbone, cifar = json.loads(run(script, 'mmpretrain')[-1])
    assert (toy / 'work' / 'epoch_1.pth').exists()
    needs = 'needs MMPretrain, but mmpretrain is not installed'
    assert backbone == f"student.backbone.type='mmpretrain.ResNet' {needs}"
    assert cifar == f'RepackedCIFAR {needs}'
