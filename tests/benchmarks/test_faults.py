"""A few of the seeded faults are found, by the doctor or by what training says."""

import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'benchmarks'))

import faults  # noqa: E402
import faulty  # noqa: E402

SAMPLE = ('classes permuted', 'mixup on one side only', 'weight 1000 times too large')


@pytest.fixture(scope='module', autouse=True)
def teacher(tmp_path_factory):
    """A teacher that is trained for a few seconds only."""
    folder = tmp_path_factory.mktemp('faults')
    cfg = Config.fromfile(ROOT / 'configs/kd_cls/digits/resnet20.py')
    cfg.train_cfg.update(max_epochs=6, val_interval=6)
    cfg.param_scheduler.T_max = 6
    cfg.default_hooks.checkpoint.interval = 6
    cfg.update(work_dir=str(folder), log_level='ERROR', experiment_name='faults')
    Runner.from_cfg(cfg).train()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faulty, 'digits_cls_teacher', lambda: folder / 'epoch_6.pth')
        patch.setattr(faults, 'IMAGES', 96)
        patch.setattr(faults, 'EPOCHS', 3)
        yield


@pytest.mark.slow
def test_faults_are_found_and_a_healthy_run_is_fine():
    table = {fault.name: fault for fault in faulty.FAULTS}
    rows = [faults.examined(table[name]) for name in SAMPLE]
    assert [row['doctor'] for row in rows] == ['wrong'] * len(SAMPLE), rows
    assert rows[-1]['training'] == 'yes'
    healthy = faults.diagnosed(faulty.digits())
    assert not [row for row in healthy if row['verdict'] == 'wrong'], healthy


def test_there_are_thirty_faults_and_each_names_its_thread():
    assert len({fault.name for fault in faulty.FAULTS}) == 30
    for fault in faulty.FAULTS:
        owner, _, number = fault.thread.partition('#')
        assert owner.count('/') == 1 and number.isdigit(), fault.thread
        assert fault.checks
    assert len(faults.healthy()) == 20
