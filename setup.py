"""Packaging. Configs and tools travel inside the package as ``kd_mm/.mim``."""

import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.develop import develop
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent
MIM = ('configs', 'tools', 'model-index.yml')


def link_mim():
    """Point ``kd_mm/.mim`` at the checkout's own files (editable installs)."""
    folder = ROOT / 'kd_mm' / '.mim'
    folder.mkdir(exist_ok=True)
    for name in MIM:
        link = folder / name
        if link.is_symlink() or link.is_file():
            link.unlink()
        elif link.is_dir():
            shutil.rmtree(link)
        if not (ROOT / name).exists():
            continue
        try:
            link.symlink_to(os.path.relpath(ROOT / name, folder))
        except OSError:  # no right to make links: a copy, to be renewed by hand
            copy_mim(folder, name)


def copy_mim(folder, name):
    source, target = ROOT / name, Path(folder) / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        ignore = shutil.ignore_patterns('__pycache__', '*.pyc')
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignore)
    elif source.exists():
        shutil.copy2(source, target)


class BuildPy(build_py):
    """A regular build gets copies; they never touch the source tree."""

    def run(self):
        super().run()
        if not getattr(self, 'editable_mode', False):
            for name in MIM:
                copy_mim(Path(self.build_lib) / 'kd_mm' / '.mim', name)


class EditableWheel(editable_wheel):  # pip install -e . (PEP 660)
    def run(self):
        link_mim()
        super().run()


class Develop(develop):  # python setup.py develop, and pip before PEP 660
    def run(self):
        link_mim()
        super().run()


version = re.search(
    r"__version__ = '(.+)'", (ROOT / 'kd_mm' / 'version.py').read_text()
).group(1)
readme = ROOT / 'README.md'

setup(
    name='kd_mm',
    version=version,
    description='Knowledge distillation for MMDetection and MMPretrain',
    long_description=readme.read_text() if readme.exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['kd_mm', 'kd_mm.*']),
    # Not torch, mmcv or mmdet: whatever OpenMMLab stack is installed, original or
    # continued, stays as it is.
    install_requires=['scipy', 'matplotlib', 'rich', 'pycocotools'],
    cmdclass={
        'build_py': BuildPy,
        'editable_wheel': EditableWheel,
        'develop': Develop,
    },
    zip_safe=False,
)
