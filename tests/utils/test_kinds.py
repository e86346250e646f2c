"""The name of a type, as a string, a class or something not imported yet."""

import functools

import pytest
from mmengine.config import ConfigDict
from mmengine.config.lazy import LazyAttr, LazyObject

from kd_mm.distill import Distill
from kd_mm.stages import ConvAdapter
from kd_mm.utils.kinds import is_type, mentions, spelled, type_name

STAGES = LazyObject('kd_mm.stages')
ADAPTERS = [
    'kd_mm.ConvAdapter',
    'ConvAdapter',
    'kd_mm.stages.conv_adapter.ConvAdapter',
    ConvAdapter,
    LazyObject('kd_mm.stages', 'ConvAdapter'),
    LazyAttr('ConvAdapter', STAGES),
    LazyAttr('ConvAdapter', LazyAttr('stages', LazyObject(['kd_mm', 'kd_mm.stages']))),
]


@pytest.mark.parametrize('kind', ADAPTERS, ids=str)
def test_every_spelling_is_the_same_type(kind):
    cfg = ConfigDict(type=kind)
    assert type_name(cfg) == 'ConvAdapter'
    assert is_type(cfg, 'kd_mm.ConvAdapter') and is_type(cfg, 'Resize', 'ConvAdapter')
    assert not is_type(cfg, 'kd_mm.Resize') and not is_type(cfg, 'Adapter')
    assert mentions([dict(a=(cfg,))], 'kd_mm') == (spelled(kind) != 'ConvAdapter')


def test_another_package_is_another_type():
    assert is_type(dict(type=Distill), 'kd_mm.Distill')
    assert not is_type(dict(type='other.Distill'), 'kd_mm.Distill')
    assert is_type(dict(type='other.Distill'), 'Distill')


@pytest.mark.parametrize('cfg', [None, 3, [], {}, dict(type=None), dict(model=1)])
def test_what_has_no_type_is_no_type(cfg):
    assert type_name(cfg) == '' and not is_type(cfg, 'kd_mm.Distill', '')


def test_names_are_read_without_importing():
    cfg = ConfigDict()
    dict.__setitem__(cfg, 'type', LazyObject('no_such_package.models', 'Net'))
    assert spelled(cfg.to_dict()['type']) == 'no_such_package.models.Net'
    assert type_name(cfg) == 'Net' and mentions(dict(a=cfg), 'no_such_package')


def test_what_is_no_class_has_a_spelling():
    assert 'partial' in spelled(functools.partial(print))
