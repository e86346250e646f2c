"""tools/setup_env.sh on an environment that is there: it looks, mends, or says why not.

The environment is a stub: a real virtual environment without pip, empty packages in
the place of torch and the rest, and a `pip` that does no more than an editable install.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIP = """
import pathlib, sys
site = pathlib.Path(__file__).parents[1]
with open(site / 'calls', 'a') as file:
    print(' '.join(sys.argv[1:]), file=file)
if '-e' in sys.argv:
    (site / 'kd_mm.pth').write_text(str(pathlib.Path.cwd()))
"""


def checkout(folder: Path) -> Path:
    """What of a clone the script needs."""
    (folder / 'tools').mkdir(parents=True)
    (folder / 'configs').mkdir()
    shutil.copy(ROOT / 'tools' / 'setup_env.sh', folder / 'tools')
    for name in ('requirements.txt', 'model-index.yml'):
        shutil.copy(ROOT / name, folder)
    (folder / 'kd_mm').mkdir()
    (folder / 'kd_mm' / '__init__.py').touch()
    return folder


def site(folder: Path) -> Path:
    return next((folder / '.venv' / 'lib').glob('python*/site-packages'))


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A clone whose environment was made a while ago."""
    clone = checkout(tmp_path_factory.mktemp('env') / 'clone')
    venv.create(clone / '.venv', with_pip=False, symlinks=True)
    for name in ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'pip'):
        (site(clone) / name).mkdir()
        (site(clone) / name / '__init__.py').touch()
    (site(clone) / 'pip' / '__main__.py').write_text(PIP)
    script = clone / '.venv' / 'bin' / 'tool'
    script.write_text(f'#!{clone}/.venv/bin/python\nimport kd_mm; print(kd_mm)\n')
    script.chmod(0o755)
    (site(clone) / 'kd_mm.pth').write_text(str(clone))
    (clone / 'kd_mm' / '.mim').mkdir()
    for name in ('configs', 'tools'):
        (clone / 'kd_mm' / '.mim' / name).symlink_to(f'../../{name}')
    files = [clone / 'requirements.txt', clone / 'tools' / 'setup_env.sh']
    text = b''.join(file.read_bytes() for file in files)
    stamp = subprocess.run(['cksum'], input=text, capture_output=True, check=True)
    (clone / '.venv' / '.ready').write_bytes(stamp.stdout)
    return clone


@pytest.fixture
def clone(made, tmp_path):
    """A copy of its own, mended so that it begins as it was made."""
    folder = tmp_path / 'clone'
    shutil.copytree(made, folder, symlinks=True)
    assert setup(folder)[0] == 0
    (site(folder) / 'calls').unlink(missing_ok=True)
    return folder


def setup(folder, **env):
    """Run the script; exit code, last line of what it says."""
    clean = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHON')}
    done = subprocess.run(
        [folder / 'tools' / 'setup_env.sh'],
        env={**clean, 'PYTHON': sys.executable, **env, 'KD_MM_VENV': '.venv'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def calls(folder):
    path = site(folder) / 'calls'
    return path.read_text().splitlines() if path.exists() else []


def test_an_environment_that_works_is_left_alone(clone):
    assert setup(clone) == (0, '') and not calls(clone)


def test_a_renamed_folder_is_mended(clone):
    renamed = clone.rename(clone.parent / 'renamed')
    code, said = setup(renamed)
    assert code == 0, said
    assert ['install' in line and '-e .' in line for line in calls(renamed)] == [True]
    assert (site(renamed) / 'kd_mm.pth').read_text() == str(renamed)
    plain = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    tool = subprocess.run(
        [renamed / '.venv/bin/tool'], capture_output=True, text=True, env=plain
    )
    assert str(renamed / 'kd_mm') in tool.stdout, tool.stderr
    assert str(renamed) in (renamed / '.venv/bin/activate').read_text()
    assert setup(renamed) == (0, '')


def test_a_copy_of_a_folder_does_not_run_the_original(clone):
    copy = clone.parent / 'copy'
    shutil.copytree(clone, copy, symlinks=True)
    assert setup(copy)[0] == 0
    assert (site(copy) / 'kd_mm.pth').read_text() == str(copy)
    assert (site(clone) / 'kd_mm.pth').read_text() == str(clone)


def test_an_environment_that_another_clone_shared_and_left_is_mended(clone):
    other = checkout(clone.parent / 'other')
    (other / '.venv').symlink_to(clone / '.venv')
    (site(clone) / 'kd_mm.pth').write_text(str(other))  # its own `pip install -e .`
    shutil.rmtree(other)
    code, said = setup(clone)
    assert code == 0, said
    assert (site(clone) / 'kd_mm.pth').read_text() == str(clone)


def test_a_clone_that_shares_an_environment_is_told_and_takes_nothing_away(clone):
    other = checkout(clone.parent / 'other')
    (other / '.venv').symlink_to(clone / '.venv')
    code, said = setup(other)
    assert code == 1 and f'is that of {clone}' in said and 'PYTHONPATH' in said
    assert (site(clone) / 'kd_mm.pth').read_text() == str(clone)
    assert setup(other, PYTHONPATH=str(other)) == (0, '')
    assert (other / 'kd_mm/.mim/configs').is_dir() and not calls(clone)


def test_a_link_to_an_environment_that_is_gone_is_said(clone):
    other = checkout(clone.parent / 'other')
    (other / '.venv').symlink_to(clone / '.venv')
    shutil.rmtree(clone)
    code, said = setup(other)
    assert code == 1 and 'which is gone' in said


def test_a_python_that_is_gone_is_said(clone):
    for path in (clone / '.venv/bin').glob('python*'):
        path.unlink()
        path.symlink_to('/nowhere/python3')
    code, said = setup(clone)
    assert code == 1 and 'does not start' in said


def test_a_missing_package_is_installed_again(clone):
    shutil.rmtree(site(clone) / 'mmcv')
    code, said = setup(clone)  # the stub installs nothing, so the first import fails
    assert code == 1
    assert any('onedl-mmcv' in line for line in calls(clone))
