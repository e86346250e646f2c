"""benchmarks/auto_pairs.py says in one line what came of a pair."""

import collections
import sys
from pathlib import Path

import toys
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'benchmarks'))

import auto_pairs  # noqa: E402


def test_sixty_pairs_are_within_a_family_and_forty_across():
    rows = list(auto_pairs.pairs())
    assert collections.Counter(row['kind'] for row in rows) == dict(
        within=60, across=40
    )
    assert len({row['config'] for row in rows}) == 100
    for row in rows:
        families = {row[side].split('/')[0] for side in ('student', 'teacher')}
        # a CIFAR network and an ImageNet one of a family are a pair across
        assert (len(families) == 1) == (row['kind'] == 'within') or 'cifar' in str(row)


def test_what_came_of_a_pair_is_a_row():
    with DefaultScope.overwrite_default_scope('mmdet'):
        trains = auto_pairs.distilled(toys.retinanet(), toys.faster_rcnn(width=24))
        broken = ConfigDict(toys.retinanet(), bbox_head=dict(type='Nothing'))
        cannot = auto_pairs.distilled(broken, toys.retinanet())
    assert trains['found'] == 'neck <- neck ConvAdapter PKDLoss'
    assert trains['result'] == 'trains' and trains['fall'] > 0
    assert cannot['result'] == 'cannot run here' and 'Nothing' in cannot['reason']


def test_the_stored_rows_are_no_tracebacks():
    failed = [k for k, v in auto_pairs.json_rows().items() if v == 'failed']
    assert not failed
