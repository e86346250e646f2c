"""slurm_train.sh, with an srun that runs the command on the spot."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_run import write_teacher

ROOT = Path(__file__).resolve().parents[2]
SRUN = """#!/usr/bin/env bash
# One process, with the variables that Slurm would set.
printf '%s\\n' "$@" > "$SRUN_LOG"
shift 2
while [[ $1 == --* ]]; do shift; done
export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=1 SLURM_NODELIST=localhost
exec "$@"
"""


@pytest.fixture
def slurm_train(tmp_path):
    """Run the script; returns exit code, stderr and the arguments srun got."""
    folder, log = tmp_path / 'bin', tmp_path / 'srun.log'
    folder.mkdir()
    (folder / 'srun').write_text(SRUN)
    (folder / 'srun').chmod(0o755)

    def run(*arguments, **env):
        here = dict(
            PATH=f'{folder}:{os.environ["PATH"]}',
            PYTHON=sys.executable,
            PYTHONWARNINGS='ignore',
            MASTER_ADDR='127.0.0.1',
            SRUN_LOG=str(log),
        )
        done = subprocess.run(
            [ROOT / 'tools/slurm_train.sh', *map(str, arguments)],
            env=os.environ | here | env,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stderr, log.read_text().split('\n')[:-1]

    return run


def test_slurm_train_starts_the_tool_through_srun(toy, slurm_train):
    work = toy / 'work'
    write_teacher(toy)
    teacher = ('--teacher', toy / 'wide.py', '--teacher-checkpoint', toy / 'wide.pth')
    alone = ('--work-dir', work, '--launcher', 'none')  # one process, no GPU
    code, err, arguments = slurm_train(
        *('gpu', 'my job', toy / 'plain.py', *teacher, '--method', 'fitnet', *alone),
        GPUS='16',
        SRUN_ARGS='--quotatype=spot --comment=a',
    )
    assert code == 0, err[-2000:]
    assert 'loss_kd_' in ''.join(p.read_text() for p in work.glob('*/*.log'))
    command = arguments.index(sys.executable)
    assert arguments[:command] == [
        '-p',
        'gpu',
        '--job-name=my job',
        '--gres=gpu:8',
        '--ntasks=16',
        '--ntasks-per-node=8',
        '--cpus-per-task=5',
        '--kill-on-bad-exit=1',
        '--quotatype=spot',
        '--comment=a',
    ]
    assert arguments[command + 1 : command + 6] == [
        '-u',
        f'{ROOT}/tools/train.py',
        f'{toy}/plain.py',
        '--launcher',
        'slurm',
    ]


def test_slurm_train_on_a_node_without_a_gpu_is_one_line(toy, slurm_train):
    if torch.cuda.is_available():
        pytest.skip('there is an accelerator')
    work = toy / 'work'
    code, err, arguments = slurm_train(
        *('cpu', 'job', toy / 'distilled.py', '--work-dir', work), GPUS='2'
    )
    assert code == 2 and err.splitlines()[-1].startswith('error: --launcher slurm')
    assert '--gres=gpu:2' in arguments and not work.exists()


def test_slurm_train_checks_its_arguments(toy):
    for arguments, message in (
        (['gpu', 'job'], 'usage'),
        (['gpu', 'job', 'no.py'], 'no.py does not exist'),
        (['gpu', 'job', str(toy / 'plain.py')], 'srun not found'),
    ):
        done = subprocess.run(
            [ROOT / 'tools/slurm_train.sh', *arguments],
            env=os.environ | dict(PATH='/usr/bin:/bin'),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2 and message in done.stderr
