"""What pyproject.toml cannot say: configs and tools travel inside the package.

They are ``kd_mm/.mim`` there, where OpenMMLab's launcher and ``kd_mm::`` look.
"""

import os
import re
import shutil
from pathlib import Path

from setuptools import setup
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


def long_description():
    """The README; a link that leads into the checkout becomes the words it is on."""
    text = (ROOT / 'README.md').read_text()
    text = re.sub(r'!\[[^]]*\]\((?!https?:)[^)]*\)\n*', '', text)
    return re.sub(r'(?<!!)\[([^]]*)\]\((?!https?:)[^)]*\)', r'\1', text)


setup(
    long_description=long_description(),
    long_description_content_type='text/markdown',
    cmdclass={
        'build_py': BuildPy,
        'editable_wheel': EditableWheel,
        'develop': Develop,
    },
    zip_safe=False,
)
