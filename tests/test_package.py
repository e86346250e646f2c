"""What a wheel and an sdist hold, and that a wheel alone is enough."""

import email
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from kd_mm.version import __version__

BUILD = (
    'import setuptools.build_meta as backend, sys; '
    'print(getattr(backend, sys.argv[1])(sys.argv[2]))'
)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of the project: a build leaves files beside what it builds."""
    left = shutil.ignore_patterns(
        *('.git', '.venv', '.gpu', '.mim', 'work_dirs', 'data', 'checkpoints'),
        *('build', 'dist', 'site', '*.egg-info', '__pycache__'),
    )
    folder = tmp_path_factory.mktemp('source') / 'kd_mm'
    return Path(shutil.copytree(ROOT, folder, ignore=left))


def build(source, kind, folder):
    """Build a distribution as pip does; without the network, from what is installed."""
    command = [sys.executable, '-W', 'ignore', '-c', BUILD, f'build_{kind}', folder]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / done.stdout.splitlines()[-1]


def tracked():
    """The files of the project that git knows."""
    command = ['git', 'ls-files']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip('not a checkout')
    return {name for name in done.stdout.splitlines() if (ROOT / name).exists()}


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
    return build(source, 'wheel', tmp_path_factory.mktemp('wheel'))


@pytest.mark.slow
def test_an_sdist_holds_every_file_that_git_does(source, tmp_path):
    with tarfile.open(build(source, 'sdist', tmp_path)) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    assert tracked() - names <= {'.gitignore', '.ci/run'}
    assert not [name for name in names if '.mim' in name or '.venv' in name]


@pytest.mark.slow
def test_a_wheel_holds_configs_tools_types_and_the_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = f'kd_mm-{__version__}.dist-info'
        meta = email.message_from_bytes(archive.read(f'{info}/METADATA'))
        licence = archive.read(f'{info}/licenses/LICENSE').decode()
    assert 'kd_mm/py.typed' in names
    wanted = {n for n in tracked() if n.startswith(('configs/', 'tools/'))}
    assert {f'kd_mm/.mim/{name}' for name in wanted} <= names
    assert licence == (ROOT / 'LICENSE').read_text()
    assert meta['License-Expression'] == 'Apache-2.0' and meta['Version'] == __version__
    extras = set(meta.get_all('Provides-Extra'))
    assert {'dev', 'docs', 'mmdet', 'mmpretrain'} <= extras
    # a link into the checkout leads nowhere from a package's page
    text = meta.get_payload()
    assert '# kd_mm' in text
    assert text.count('](') == text.count('](http')


@pytest.mark.slow
def test_a_wheel_alone_finds_and_builds_a_packaged_config(wheel, tmp_path):
    site, away = tmp_path / 'site', tmp_path / 'away'
    away.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    env = {**os.environ, 'PYTHONPATH': str(site)}
    script = (
        'import kd_mm, mmengine\n'
        'from mmengine.registry import MODELS, init_default_scope\n'
        f'assert kd_mm.__file__.startswith({str(site)!r}), kd_mm.__file__\n'
        'from kd_mm.utils.cli import load_config\n'
        # with its teacher's weights, which lie in the package
        "name = 'kd_mm::kd/digits/retinanet_r18w24_r18w16_sokd_digits.py'\n"
        "init_default_scope('mmdet')\n"
        'MODELS.build(load_config(name).model)\n'
        "cfg = load_config('kd_mm::kd/retinanet_r101_r50_sokd.py')\n"
        'cfg.model.teacher.update(checkpoint=None, allow_random=True)\n'
        'cfg.model.student.backbone.init_cfg = None\n'
        'init_default_scope(cfg.default_scope)\n'
        'model = MODELS.build(cfg.model)\n'
        'print(type(model).__name__, *model.distiller.links)\n'
    )
    command = [sys.executable, '-W', 'ignore', '-c', script]
    done = subprocess.run(command, cwd=away, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == 'DistilledRetinaNet fpn'
    command = [sys.executable, '-m', 'kd_mm', 'train']
    command.append('kd_mm::kd/retinanet_r101_r50_soKD.py')
    done = subprocess.run(command, cwd=away, env=env, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr[-2000:]
    assert 'nearest: retinanet_r101_r50_sokd.py' in done.stderr.splitlines()[-1]


def test_the_citation_names_the_version_and_the_three_papers():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == __version__
    papers = [r['identifiers'][0]['value'] for r in citation['references']]
    assert papers == ['arXiv:2103.16844', 'arXiv:2409.18785', 'arXiv:2206.06067']
    assert all(r['title'] and r['authors'] for r in citation['references'])
