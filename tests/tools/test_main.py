"""``python -m kd_mm``: every tool, from anywhere."""

import subprocess
import sys

import pytest
from conftest import ROOT

from kd_mm import __main__ as entry


@pytest.fixture
def call(monkeypatch, capsys):
    """Call the module in this process; returns exit code, stdout, stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['kd_mm', *map(str, arguments)])
        monkeypatch.setattr(sys, 'path', list(sys.path))
        try:
            code = entry.main() or 0
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return call


def test_it_lists_every_tool(call):
    code, out, _ = call('--help')
    assert code == 0
    for path in (ROOT / 'tools').glob('*.py'):
        assert f'  {path.stem} ' in out
    assert call()[1] == out


@pytest.mark.parametrize('name', sorted(entry.tools()))
def test_every_tool_explains_itself_under_that_name(call, name):
    code, out, _ = call(name, '--help')
    assert code == 0
    assert f'usage: python -m kd_mm {name} [-h]' in out


def test_a_misspelt_tool_is_one_line(call):
    code, out, err = call('trian')
    assert code == 2 and not out
    assert err.startswith("error: there is no tool 'trian'; nearest: train")
    assert err.count('\n') == 1


def test_a_mistake_is_that_of_the_tool(call):
    code, _, err = call('train', 'no.py')
    assert code == 2 and 'error: config no.py does not exist' in err
    code, _, err = call('test', 'no.py')
    assert code == 2 and '(see python -m kd_mm test --help)' in err


def test_a_run_started_as_a_module_trains(toy, tmp_path):
    command = [sys.executable, '-W', 'ignore', '-m', 'kd_mm', 'train']
    command += [str(toy / 'plain.py'), '--work-dir', str(tmp_path / 'work')]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / 'work' / 'epoch_1.pth').exists()
