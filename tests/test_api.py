"""What a Python user may call: light to import, explained, and the examples run."""

import doctest
import subprocess
import sys

import pytest
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

import kd_mm

NAMES = [name for name in kd_mm.__all__ if name != '__version__']


@pytest.fixture
def quiet(monkeypatch):
    """As in a fresh process: no scope of other tests, nothing logged to stdout."""
    fresh = type(DefaultScope._instance_dict)()
    monkeypatch.setattr(DefaultScope, '_instance_dict', fresh)
    logger = MMLogger.get_current_instance()
    before = logger.level
    logger.setLevel('WARNING')
    yield
    logger.setLevel(before)


@pytest.mark.parametrize('name', NAMES)
def test_the_example_of_every_public_name_runs(name, quiet):
    text = getattr(kd_mm, name).__doc__
    assert 'Examples:' in text
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    out: list[str] = []
    done = doctest.DocTestRunner(optionflags=flags).run(example, out=out.append)
    assert done.attempted and not done.failed, ''.join(out)


def test_importing_it_is_light():
    script = (
        'import sys, kd_mm\n'
        'heavy = ("mmcv", "mmdet", "mmpretrain", "kd_mm.distill", "kd_mm.stages")\n'
        'assert not [name for name in heavy if name in sys.modules]\n'
        'assert set(kd_mm.__all__) <= set(dir(kd_mm))\n'
        'from kd_mm import *\n'
        'assert Stage.__module__ == "kd_mm.stages.base"\n'
    )
    subprocess.run([sys.executable, '-W', 'ignore', '-c', script], check=True)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match='Distil'):
        kd_mm.Distil  # noqa: B018
