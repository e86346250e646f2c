"""The documentation as a site: every page and every public name, without a warning."""

import importlib
import json
import subprocess
import sys
import zlib

import pytest
from conftest import ROOT

import kd_mm

pytest.importorskip('mkdocs')
pytest.importorskip('mkdocstrings')
ROOMS = ('stages', 'criteria', 'backbones', 'datasets', 'hooks')


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The built site; a warning is an error."""
    folder = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '-d', str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_every_page_is_on_the_site(site):
    for page in (ROOT / 'docs').rglob('*.md'):
        name = page.relative_to(ROOT / 'docs').with_suffix('')
        where = name.parent if name.name == 'index' else name
        assert (site / where / 'index.html').is_file(), page
    # the README is the start, its links lead to pages of the site
    start = (site / 'index.html').read_text()
    assert 'The four lines' in start and 'href="docs/' not in start


def test_every_public_name_is_in_the_reference(site):
    header, _, packed = (site / 'objects.inv').read_bytes().partition(b'zlib.\n')
    names = {row.split()[0] for row in zlib.decompress(packed).decode().splitlines()}
    wanted = {f'kd_mm.{name}' for name in kd_mm.__all__ if name != '__version__'}
    for room in ROOMS:
        module = importlib.import_module(f'kd_mm.{room}')
        wanted |= {f'kd_mm.{room}.{name}' for name in module.__all__}
    assert not wanted - names, 'name them in docs/api'


def test_a_stage_has_its_arguments_and_is_found_by_searching(site):
    page = (site / 'api' / 'kcd' / 'index.html').read_text()
    for word in ('ChannelAlign', 'bipartite', 'Parameters:', 'Shapes', 'Raises:'):
        assert word in page
    assert ':class:' not in page  # roles became links
    index = json.loads((site / 'search' / 'search_index.json').read_text())
    found = [doc for doc in index['docs'] if 'ChannelAlign' in doc['title']]
    assert any(doc['location'].startswith('api/kcd/#') for doc in found)
