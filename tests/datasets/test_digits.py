"""The digits data set is seeded, tight, whole, and never overwrites anything."""

import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from sklearn.datasets import load_digits

from kd_mm.datasets import make_digits
from kd_mm.datasets.digits import _ink
from kd_mm.errors import ConfigError


def make(folder, **kwargs):
    return make_digits(folder, **(dict(train=6, val=3, size=96) | kwargs))


def content(folder) -> dict:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*.*')}


def test_a_seed_gives_the_same_files(tmp_path):
    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        make(tmp_path / name, seed=seed)
    assert content(tmp_path / 'a') == content(tmp_path / 'b')
    assert content(tmp_path / 'a') != content(tmp_path / 'c')


def test_boxes_are_inside_and_loadable(tmp_path):
    make(tmp_path / 'a')
    for split, count in (('train', 6), ('val', 3)):
        coco = COCO(str(tmp_path / f'a/annotations/instances_{split}.json'))
        assert len(coco.imgs) == count and len(coco.cats) == 10
        for image in coco.imgs.values():
            pixels = cv2.imread(str(tmp_path / 'a' / split / image['file_name']))
            assert pixels.shape == (96, 96, 3)
            boxes = coco.imgToAnns[image['id']]
            assert 1 <= len(boxes) <= 5
            for box in boxes:
                x, y, w, h = box['bbox']
                assert x >= 0 and y >= 0 and x + w <= 96 and y + h <= 96
                assert min(w, h) >= 5 and box['area'] == w * h


def test_a_box_is_as_large_as_the_ink():
    digit = load_digits().images[3] / 16
    for seed in range(5):
        ink = _ink(digit, np.random.default_rng(seed))
        edges = [ink[0], ink[-1], ink[:, 0], ink[:, -1]]
        assert all(edge.max() > 0.25 for edge in edges)
        assert ink.min() >= 0 and ink.max() <= 1


def test_a_complete_folder_is_left_alone_and_a_foreign_one_refused(tmp_path):
    assert make(tmp_path / 'a')
    stamp = (tmp_path / 'a/digits.json').stat().st_mtime_ns
    assert not make(tmp_path / 'a')
    assert (tmp_path / 'a/digits.json').stat().st_mtime_ns == stamp
    with pytest.raises(ConfigError, match='is not this data set'):
        make(tmp_path / 'a', seed=2)
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b/mine.txt').write_text('precious')
    with pytest.raises(ConfigError, match='is not this data set'):
        make(tmp_path / 'b')
    assert (tmp_path / 'b/mine.txt').read_text() == 'precious'


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(json, 'dumps', lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make(tmp_path / 'a')
    assert list(tmp_path.iterdir()) == []
