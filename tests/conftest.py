"""Paths, threads and data that tests share."""

import functools
import os
import sys
from pathlib import Path

import pytest
import torch
from mmengine.fileio import load
from mmengine.logging import MessageHub

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tests'))
if 'PYTEST_XDIST_WORKER' in os.environ:  # every core has a process of its own
    os.environ.setdefault('OMP_NUM_THREADS', '1')
torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', 2)))


@pytest.fixture(autouse=True, scope='session')
def _configs_are_cheap():
    """Half a second each, most of what many tests would do: layout and model indices.

    A dumped config has no layout of yapf, and the hundred YAML files that
    MMEngine reads for each ``mmdet::`` are read once.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **_: (text, 1))
        patch.setattr('mmengine.config.utils.load', functools.cache(load))
        yield


@pytest.fixture(autouse=True)
def _nowhere_in_training():
    """The last run's place in training, which MMEngine keeps, is no other test's."""
    MessageHub.get_current_instance().runtime_info.clear()


@pytest.fixture(scope='session')
def data_folder() -> Path:
    """Folder with real data: `data/`, or what KD_MM_TEST_DATA names."""
    for folder in (
        os.environ.get('KD_MM_TEST_DATA'),
        ROOT / 'data',
        ROOT / '../shared/data',
    ):
        if folder and (Path(folder) / 'coco_s320').is_dir():
            return Path(folder).resolve()
    pytest.skip('no folder with coco_s320 and weights (set KD_MM_TEST_DATA)')
