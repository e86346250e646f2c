"""The head's classes and the data set's: said at the start where they differ."""

from types import SimpleNamespace

import pytest
import toys
from helpers import distill_cfg, runner
from mmdet.registry import MODELS
from mmengine.hub import get_config
from mmengine.registry import DefaultScope

from kd_mm.utils.classes import classes_of, differing


def dataset(count, **more):
    names = tuple('abcdefgh'[:count])
    return SimpleNamespace(metainfo=dict(classes=names, **more))


@pytest.mark.parametrize('make', [toys.retinanet, toys.faster_rcnn])
def test_numbers_of_classes_are_compared(make):
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(make(classes=4))
    assert classes_of(model) == 4
    assert not differing(model, dataset(4))
    assert differing(model, dataset(5)).startswith('the head tells 4 classes apart')
    assert 'background' in differing(model, dataset(5))
    assert 'background' not in differing(model, dataset(3))
    assert not differing(model, dataset(8, stuff_classes=('e', 'f', 'g', 'h')))
    assert not differing(model, SimpleNamespace())  # it does not say


def test_a_region_proposer_finds_any_class():
    with DefaultScope.overwrite_default_scope('mmdet'):
        cfg = get_config('mmdet::rpn/rpn_r50_fpn_1x_coco.py').model
        assert not differing(MODELS.build(cfg), dataset(8))


@pytest.mark.parametrize('classes', [4, 6])
def test_a_head_of_other_classes_is_one_line_of_the_log(tmp_path, classes):
    net = toys.retinanet(classes=classes)
    runner(distill_cfg(net, net), tmp_path, epochs=1).train()
    log = next(tmp_path.glob('*/*.log')).read_text()
    told = 'kd_mm: model.student: the head tells 6 classes apart'
    assert log.count(told) == (classes == 6)
