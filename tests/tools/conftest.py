"""Start the command-line tools on a toy run."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer
from toy_run import classifier_config, toy_config, write_data

ROOT = Path(__file__).resolve().parents[2]


def _write_toy(folder):
    write_data(folder)
    classifier_config(folder).dump(folder / 'classifier.py')
    names = [f'{index}.png {index % 2}' for index in range(8)]
    (folder / 'classes.txt').write_text('\n'.join(names))
    for name in ('plain', 'distilled'):
        cfg = toy_config(folder, distilled=name == 'distilled')
        cfg.dump(folder / f'{name}.py')
    return folder


@pytest.fixture(scope='session')
def write_toy():
    """Writes toy data, ``plain.py``, ``distilled.py``, ``classifier.py``."""
    return _write_toy


@pytest.fixture
def toy(tmp_path):
    """Folder with toy data, ``plain.py``, ``distilled.py``, ``classifier.py``."""
    return _write_toy(tmp_path)


@pytest.fixture
def start():
    """Start a tool in a process of its own; returns the ``Popen``."""
    env = {**os.environ, 'PYTHON': sys.executable, 'PYTHONWARNINGS': 'ignore'}

    def start(tool, *arguments):
        command = [ROOT / 'tools' / tool, *map(str, arguments)]
        if tool.endswith('.py'):
            command.insert(0, sys.executable)
        return subprocess.Popen(
            command,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return start


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a tool's ``main`` in this process; returns exit code and last stderr line."""

    def run(tool, *arguments):
        # MMEngine keeps loggers and scopes by name and second
        for kind in (MMLogger, MessageHub, DefaultScope, Visualizer):
            kind._instance_dict.clear()
        monkeypatch.setattr(sys, 'argv', [f'{tool}.py', *map(str, arguments)])
        code = 0
        try:
            code = load(tool).main() or 0
        except SystemExit as error:
            code = error.code
        lines = [ln for ln in capsys.readouterr().err.splitlines() if ln]
        return code, [ln for ln in lines if ln.startswith(('error:', 'interrupted'))]

    return run
