"""benchmarks/cost.py measures what it says, on toys. No test of times."""

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch
import toys
from helpers import DEVICES, distill_cfg
from mmengine.config import Config
from mmengine.logging import MessageHub

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'benchmarks'))

import cost  # noqa: E402
import steps  # noqa: E402


@pytest.fixture(autouse=True)
def no_progress_left():
    yield
    MessageHub.get_current_instance().runtime_info.clear()


def bench(stages=(), *, model=toys.retinanet, tap='neck', size=(64, 64), device='cpu'):
    link = dict(
        student=tap,
        teacher=tap,
        stages=list(stages),
        criterion=dict(type='kd_mm.MSELoss'),
    )
    scope = 'mmdet' if model is toys.retinanet else 'mmpretrain'
    cfg = distill_cfg(model(classes=10), model(classes=10), dict(fpn=link))
    return steps.Bench(
        Config(dict(model=cfg, default_scope=scope)),
        data=steps.random_batch(2, size, device),
        device=device,
    )


def test_every_variant_does_its_part():
    dafa = dict(type='kd_mm.DAFA', start=1, search_epochs=4)
    one = bench([dict(type='kd_mm.ChannelAlign'), dafa])
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


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize(
    ('model', 'tap', 'size'),
    [(toys.classifier, 'backbone', (32, 32)), (toys.retinanet, 'neck', (64, 64))],
    ids=['classifier', 'detector'],
)
def test_both_kinds_take_the_same_way(model, tap, size, device):
    one = bench(model=model, tap=tap, size=size, device=device)
    for run in one.variants().values():
        run()
    found = one.memory(device)
    assert found['distilled'] > found['student'] > one.held(one.plain) > 0


def test_turns_interleave_and_ratios_are_taken_turn_by_turn():
    order = []
    variants = {name: lambda name=name: order.append(name) for name in 'ab'}
    seconds = steps.measure(variants, repeats=3, device='cpu')
    assert order == list('ab') * 5 and [len(s) for s in seconds.values()] == [3, 3]
    text = steps.ratio([2.0, 4.0, 9.0], [1.0, 1.0, 2.0], [1.0, 1.0, 1.0])
    assert text == '2.000 (1.000 to 3.000)'


def test_peak_memory_is_the_highest_sum_not_the_total():
    def run():
        first = torch.empty(2**20)  # 4 MiB
        del first
        second = torch.empty(2**18), torch.empty(2**18)
        del second

    assert steps.peak_memory(run, 'cpu') == 4 * 2**20


def test_flops_count_both_ways_and_attention():
    layer = torch.nn.Linear(8, 16, bias=False)
    x = torch.randn(4, 8)
    once = 2 * 4 * 8 * 16
    assert steps.flops(lambda: layer(x)) == once
    assert steps.flops(lambda: layer(x).sum().backward()) == 2 * once
    q = torch.randn(1, 2, 5, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert steps.flops(lambda: attend(q, q, q)) == 2 * (2 * 2 * 5 * 5 * 8)


def test_the_bound_of_memory_is_student_teacher_weights_and_what_is_read():
    one = bench()
    one.step(one.plain)
    one.step(one.distilled)
    found = one.memory('cpu')
    teacher = one.distilled.distiller.teacher.model
    weights = sum(t.numel() * t.element_size() for t in teacher.state_dict().values())
    read = 2 * sum(t.numel() * 4 for t in one.teacher().calls[_neck(one)][0])
    assert one.tapped() == read
    assert found['bound'] == found['student'] + weights + read


def _neck(one):
    return one.distilled.distiller.teacher.taps.taps['neck']


def test_every_config_of_the_default_list_is_there_and_its_size_is_used():
    for device, listed in dict(cuda=cost.ON_GPU, cpu=cost.DEFAULT).items():
        args = argparse.Namespace(batch_size=None, size=None, device=device)
        assert len(listed) > 10
        for name, (batch, size) in listed.items():
            assert cost.wanted(ROOT / name, args) == (batch, size)
    own = ROOT / 'configs/kd_cls/digits/resnet20_resnet8_sokd_stable.py'
    batch = Config.fromfile(own).train_dataloader.batch_size
    assert cost.wanted(own, args) == (batch, (16, 16))
    args = argparse.Namespace(batch_size=3, size=[20, 24], device='cpu')
    assert cost.wanted(own, args) == (3, (20, 24))
    with pytest.raises(SystemExit, match='is not distilled'):
        cost.wanted(ROOT / 'configs/kd_cls/digits/resnet8.py', args)


def test_a_config_measured_again_replaces_its_rows(tmp_path):
    path = tmp_path / 'rows.json'
    steps.store(path, 'a', [dict(config='a', x=1), dict(config='a', x=2)])
    steps.store(path, 'b', [dict(config='b', x=3)])
    steps.store(path, 'a', [dict(config='a', x=4)])
    assert json.loads(path.read_text()) == [
        dict(config='b', x=3),
        dict(config='a', x=4),
    ]
