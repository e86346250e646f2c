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


@pytest.fixture
def toy(tmp_path):
    """Folder with toy data, ``plain.py``, ``distilled.py``, ``classifier.py``."""
    write_data(tmp_path)
    classifier_config(tmp_path).dump(tmp_path / 'classifier.py')
    names = [f'{index}.png {index % 2}' for index in range(8)]
    (tmp_path / 'classes.txt').write_text('\n'.join(names))
    for name in ('plain', 'distilled'):
        cfg = toy_config(tmp_path, distilled=name == 'distilled')
        cfg.dump(tmp_path / f'{name}.py')
    return tmp_path


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
            load(tool).main()
        except SystemExit as error:
            code = error.code
        lines = [ln for ln in capsys.readouterr().err.splitlines() if ln]
        return code, [ln for ln in lines if ln.startswith(('error:', 'interrupted'))]

    return run
