"""Arrows point one way: what stands higher imports what stands lower, never back."""

import ast
import importlib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

# Lowest first; a name stands for the module or the folder. What is not here stands
# with the tools, above everything.
FLOORS = (
    (
        'errors',
        'registry',
        'version',
        'utils.boxes',
        'utils.regions',
        'utils.amp',
        'utils.classes',
        'utils.config_text',
        'utils.flops',
        'utils.kinds',
        'utils.metrics',
        'utils.pretraining',
        'utils.randomness',
        'utils.states',
        'utils.strides',
        'utils.wrappers',
        'sizes',
    ),
    ('options', 'probe', 'toolboxes', 'utils.files', 'utils.saving'),
    ('pair', 'taps', 'schedule', 'diagnostics', 'utils.loading', 'utils.overrides'),
    ('student', 'guard', 'share', 'colours'),
    ('outputs',),
    (
        'bare',
        'criteria',
        'modes',
        'trial',
        'preprocess',
        'backbones',
        'datasets',
        'optimizers',
    ),
    ('teacher',),
    ('link',),
    ('teachers',),
    ('distiller', 'inherit', 'rehearsal'),
    ('unaugmented',),
    ('stages',),
    ('analysis', 'auto'),
    ('hooks',),
    ('distill',),
)
TOP = len(FLOORS)
PACKAGE = ROOT / 'kd_mm'
FILES = sorted(p for p in PACKAGE.rglob('*.py') if '.mim' not in p.parts)


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(p for p in parts if p != '__init__')


NAMES = {dotted(path) for path in FILES}


def floor(name: str) -> int:
    for height, names in enumerate(FLOORS):
        if any(name == n or name.startswith(f'{n}.') for n in names):
            return height
    return TOP


def imports(path: Path) -> set[str]:
    """What a file imports of the package, for types and inside functions too."""
    found = set()
    package = list(path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = package[: len(package) - node.level + 1]
            module = base + (node.module or '').split('.') if node.module else base
        elif (node.module or '').split('.')[0] == 'kd_mm':
            module = node.module.split('.')[1:]
        else:
            continue
        for alias in node.names:
            whole = '.'.join([*module, alias.name])
            found.add(whole if whole in NAMES else '.'.join(module))
    return found - {'', dotted(path)}


GRAPH = {dotted(path): imports(path) for path in FILES}


@pytest.mark.parametrize('name', sorted(GRAPH))
def test_nothing_imports_what_stands_above_it(name):
    above = [other for other in GRAPH[name] if floor(other) > floor(name)]
    if name != '':
        assert not above, f'kd_mm.{name} imports {above}'


def test_no_circles_types_included():
    # A package's own __init__ gathers its files; they do not import it.
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(' -> '.join(error.args[1]))


def test_rooms_do_not_import_each_other():
    rooms = ('stages.kcd', 'stages.sokd', 'stages.dpk')
    for name, found in GRAPH.items():
        for room in (r for r in rooms if name.startswith(r)):
            others = [f for f in found if f.startswith('stages.') and room not in f]
            assert set(others) <= {'stages.base'}, (name, others)


def test_the_walk_sees_circles_and_arrows(tmp_path, monkeypatch):
    """The test itself: relative, absolute, nested and typed imports all count."""
    monkeypatch.setattr('test_architecture.PACKAGE', tmp_path)
    path = tmp_path / 'stages' / 'imagined.py'
    path.parent.mkdir()
    path.write_text(
        'from typing import TYPE_CHECKING\n'
        'if TYPE_CHECKING:\n    from ..analysis.report import measure\n'
        'def f():\n    from kd_mm.distill import Distill\n    from . import base\n'
    )
    assert imports(path) == {'analysis.report', 'distill', 'stages.base'}
    assert floor('analysis.report') > floor('stages.imagined')


def test_old_names_of_stages_still_import():
    stages = importlib.import_module('kd_mm.stages')
    assert {'ChannelAlign', 'DAFA', 'DAM', 'DPK'} <= set(stages.__all__)
    assert all(hasattr(stages, name) for name in stages.__all__)


@pytest.mark.parametrize('path', FILES, ids=dotted)
def test_files_are_small(path):
    assert len(path.read_text().splitlines()) <= 400
