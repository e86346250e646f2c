"""The table of what combines says what happens."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from helpers import classification_batch, losses_of

from kd_mm.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'benchmarks'))

from combine import METHODS, RESULT, build, combine, hosts, outcome  # noqa: E402

TABLE = {row['host']: row for row in json.loads(RESULT.read_text())}
HOSTS = hosts()
CELLS = [(host, method) for host in HOSTS for method in METHODS]


def test_the_table_has_every_host_and_method():
    assert set(TABLE) == set(HOSTS)
    assert all(set(row) == {'host', *METHODS} for row in TABLE.values())


def batch():
    data = classification_batch(8, size=16, classes=10)
    for i, sample in enumerate(data['data_samples']):
        sample.set_metainfo(dict(sample_idx=i))
    return data


def trained(model, steps=2) -> list[dict]:
    """Losses of a few steps; links that wait for an epoch are let in at once."""
    # small: OFD's shipped weight and DPK diverge together (docs/results)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    logs = []
    for _ in range(steps):
        total, log = model.parse_losses(losses_of(model, batch()))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        logs.append({name: float(value) for name, value in log.items()})
    return logs


def ready(model):
    """A model past its warm-ups, its channel maps drawn at random."""
    for link in model.distiller.links.values():
        link.schedule.warmup = 0
        for stage in link.stages:
            if hasattr(stage, 'fitted_at'):
                stage._mark(0)
    return model.train()


@pytest.mark.parametrize(('host', 'method'), CELLS)
def test_a_cell_of_the_table_is_what_happens(host, method):
    links, parts = HOSTS[host], METHODS[method]
    said, why = outcome(lambda: build(combine(links, *parts)))
    assert said == TABLE[host][method], why
    if said == 'refused':
        with pytest.raises(ConfigError, match=r'links\.\w+[.:]'):
            build(combine(links, *parts))
        return
    torch.manual_seed(0)
    model = ready(build(combine(links, *parts)))
    model.init_weights()
    logs = trained(model)
    names = [f'loss_kd_{name}' for name in links]
    assert all(math.isfinite(v) for log in logs for v in log.values())
    assert all(logs[-1][name] != 0 for name in names)
    model.zero_grad()
    losses = losses_of(model, batch())
    sum(losses[name] for name in names).backward()
    reached = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert reached and sum(float(g.abs().sum()) for g in reached) > 0
