"""The table of what combines with a head's link says what happens."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'benchmarks'))

import combine_heads as heads  # noqa: E402
from combine import combine, outcome  # noqa: E402

TABLE = {row['host']: row for row in json.loads(heads.RESULT.read_text())}


@pytest.mark.parametrize('host', heads.HOSTS)
def test_a_second_link_between_the_necks_goes_with_every_head(host):
    assert {TABLE[host][name] for name in heads.BESIDE} == {'yes'}
    links = dict(heads.HOSTS[host])
    for name, more in heads.BESIDE.items():
        links |= {f'{name}_{key}': link for key, link in more.items()}
    assert heads.cell(host, links) == 'yes'


@pytest.mark.parametrize('host', heads.HOSTS)
def test_a_stage_in_the_heads_own_link_is_taken_or_refused_as_the_table_says(host):
    for name in heads.INSIDE:
        links = combine(heads.HOSTS[host], name)
        said, why = outcome(lambda links=links: heads.build(host, links))
        assert said == TABLE[host][f'{name}_inside'], why
        assert (said == 'refused') == bool(why and said != 'no effect')
