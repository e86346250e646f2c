"""benchmarks/families.py says what happened in one line, whatever happened."""

import json
import sys
from pathlib import Path

import toys
from mmengine.registry import DefaultScope

from kd_mm.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'benchmarks'))

import families  # noqa: E402


def result(toy, scope: str) -> dict:
    with DefaultScope.overwrite_default_scope(scope):
        return families.distilled(toy())


def test_a_model_is_distilled_from_itself():
    rows = result(toys.retinanet, 'mmdet'), result(toys.classifier, 'mmpretrain')
    assert [row['tap'] for row in rows] == ['neck', 'backbone']
    assert all((r['result'], r['reason']) == ('distilled', '') for r in rows), rows


def test_a_refusal_and_a_model_that_does_not_train_are_told_apart(monkeypatch):
    monkeypatch.setattr(families, 'train', lambda model, _: 'KeyError: no such sample')
    row = result(toys.retinanet, 'mmdet')
    assert row['result'] == 'tried' and 'KeyError: no such sample' in row['reason']

    def refuse(cfg, *, small):
        raise ConfigError('no such\ntap')

    monkeypatch.setattr(families, 'build', refuse)
    row = result(toys.retinanet, 'mmdet')
    assert (row['result'], row['reason']) == ('refused', 'no such tap')


def test_what_cannot_be_built_is_a_row():
    row = families.examine('mmdet::atss/of_a_dream.py')
    assert row['result'] == 'cannot run here' and row['family'] == 'mmdet/atss'
    assert '\n' not in row['reason'] and 'Traceback' not in row['reason']


def test_a_small_model_stands_for_its_family():
    names = ['a_r101', 'a_r50_2x', 'a_r50', 'a_tiny_long_name']
    paths = sorted(map(Path, names), key=families._size)
    assert [str(p) for p in paths] == [
        'a_tiny_long_name',
        'a_r50',
        'a_r50_2x',
        'a_r101',
    ]


def test_the_stored_rows_have_no_traceback():
    rows = json.loads(families.RESULT.read_text())
    for row in rows:
        assert 'Traceback' not in row['reason'] and row['result'] != 'failed', row
        assert bool(row['reason']) == (row['result'] != 'distilled'), row
