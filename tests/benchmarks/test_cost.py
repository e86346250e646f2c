"""benchmarks/cost.py measures what it says, on a toy config. No test of times."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import toys
from helpers import distill_cfg
from mmengine.config import Config
from mmengine.logging import MessageHub

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cost(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    path = ROOT / 'benchmarks' / 'cost.py'
    spec = importlib.util.spec_from_file_location('cost', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop('tables', None)
    MessageHub.get_current_instance().runtime_info.clear()


def bench(cost, stages):
    link = dict(
        student='neck',
        teacher='neck',
        stages=stages,
        criterion=dict(type='kd_mm.MSELoss'),
    )
    model = distill_cfg(toys.retinanet(classes=10), toys.retinanet(), dict(fpn=link))
    return cost.Bench(
        Config(dict(model=model)), device='cpu', batch_size=2, size=(64, 64)
    )


def test_every_variant_does_its_part(cost):
    dafa = dict(type='kd_mm.DAFA', start=1, search_epochs=4)
    one = bench(cost, [dict(type='kd_mm.ChannelAlign'), dafa])
    variants = one.variants()
    assert set(variants) > {'student', 'teacher', 'distilled', 'search'}
    policy = one.stages[1].policy
    before = [p.detach().clone() for p in one.plain.parameters()]
    variants['student']()
    assert not all(map(torch.equal, before, one.plain.parameters()))
    assert policy.draws == 0
    chi = policy.chi.clone()
    variants['distilled']()  # the link runs, the search is over
    one.stages[1].settle()
    assert policy.draws == 1 and torch.equal(policy.chi, chi)
    variants['search']()
    one.stages[1].settle()
    assert policy.draws == 2 and not torch.equal(policy.chi, chi)
    variants['predict_distilled']()
    assert one.distilled.training


def test_turns_interleave_and_ratios_are_taken_turn_by_turn(cost):
    order = []
    variants = {name: lambda name=name: order.append(name) for name in 'ab'}
    seconds = cost.measure(variants, repeats=3, device='cpu')
    assert order == list('ab') * 5 and [len(s) for s in seconds.values()] == [3, 3]
    text = cost.ratio([2.0, 4.0, 9.0], [1.0, 1.0, 2.0], [1.0, 1.0, 1.0])
    assert text == '2.000 (1.000 to 3.000)'
