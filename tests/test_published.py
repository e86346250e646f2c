"""What docs/methods.md says of published constants is what the configs do."""

import ast
import functools
import inspect
import math
import re

import pytest
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS

PAGE = (ROOT / 'docs/methods.md').read_text()
TABLE = re.compile(r'<!-- published: (\S+) ?(\S*) -->\n\n((?:\|.*\n)+)')
LITERAL = re.compile(r'`([^`]+)`')


def rows():
    """(config, key, published, ours, why) of every row, key '' where there is none."""
    for config, prefix, table in TABLE.findall(PAGE):
        for line in table.splitlines()[2:]:
            _, published, ours, key, why = (c.strip() for c in line.split('|')[1:-1])
            key = key.strip('`')
            if key and '{}' in config:
                method, key = key.split(': ')
                path = config.format(method)
            else:
                path = config
            if key and prefix:
                root = 'model.' if prefix.startswith('links') else ''
                key = f'{root}{prefix}.{key}'
            yield path, key, published, ours, why


@functools.cache
def read(path: str) -> Config:
    return Config.fromfile(ROOT / 'configs' / path)


ROWS = list(rows())
CHECKED = [row for row in ROWS if row[1]]


def value_at(cfg, key: str):
    """What a config says, or what the constructor of the part has as its default."""
    value = cfg._cfg_dict.to_dict()
    for part in re.findall(r'[^.\[\]]+', key):
        if isinstance(value, list | tuple):
            value = value[int(part)]
        elif part in value or 'type' not in value:
            value = value[part]
        else:
            target = MODELS.get(value['type'])
            value = inspect.signature(target).parameters[part].default
    return 0 if value == 'start' else value


def same(a, b) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and not isinstance(b, bool | None | str):
        return math.isclose(a, b, rel_tol=1e-3)
    return a == b


@pytest.mark.parametrize(
    ('path', 'key', 'published', 'ours', 'why'),
    CHECKED,
    ids=[f'{path}-{key}' for path, key, *_ in CHECKED],
)
def test_the_table_says_what_the_config_does(path, key, published, ours, why):
    shown = ast.literal_eval(LITERAL.match(ours)[1])
    there = value_at(read(path), key)
    assert same(shown, there), f'{path}: {key} is {there!r}, the table says {ours}'


@pytest.mark.parametrize(('path', 'key', 'published', 'ours', 'why'), ROWS)
def test_a_departure_has_its_reason(path, key, published, ours, why):
    literal = LITERAL.match(published)
    if literal and LITERAL.match(ours):
        departs = not same(
            *(ast.literal_eval(LITERAL.match(x)[1]) for x in (published, ours))
        )
        assert why or not departs


def test_every_method_has_a_table():
    assert len(TABLE.findall(PAGE)) >= 9 and len(CHECKED) >= 80
    for word in ('_kcd', '_sokd', '_dpk', 'resnet56_resnet20_{}'):
        assert any(word in path for path, *_ in TABLE.findall(PAGE)), word


def test_a_number_changed_by_hand_is_seen(tmp_path):
    """The comparison itself."""
    path, key, _, ours, _ = next(row for row in CHECKED if row[3] == '`100.0`')
    cfg = Config.fromfile(ROOT / 'configs' / path)
    cfg.merge_from_dict({key: 99.0})
    assert not same(ast.literal_eval(ours.strip('`')), value_at(cfg, key))
