"""benchmarks/gain.py: rows, failures, suites."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'benchmarks'))

from gain import SUITES, add, one_run, read  # noqa: E402


def test_processes_that_add_rows_at_once_lose_none(tmp_path):
    path = tmp_path / 'rows.json'
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: add(path, dict(method='a', seed=i)), range(40)))
    assert sorted(row['seed'] for row in read(path)) == list(range(40))
    assert json.loads(path.read_text()) == read(path)


def test_a_run_that_diverges_says_so_and_another_has_its_metrics(tmp_path):
    suite = SUITES['digits-cls']
    setting = dict(images=100, epochs=1)

    def broken(folder, **kwargs):
        cfg = suite.config(folder, **kwargs)
        cfg.optim_wrapper.optimizer.lr = 1e30
        return cfg

    for config, key in ((suite.config, 'top1'), (broken, 'failed')):
        one = replace(suite, config=config, name='test-gain')
        row = one_run(one, 'alone', 0, setting, 'cpu')
        assert key in row and row['seconds'] > 0 and row['torch']
    assert 'not finite' in row['failed']


def test_every_suite_has_its_base_and_real_configs():
    for suite in SUITES.values():
        assert suite.base in suite.methods and suite.teacher.is_file()
