"""The other cost benchmarks: faster teachers, growth, profiles. No test of times."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
import toys
from helpers import distill_cfg
from mmengine.config import Config
from mmengine.logging import MessageHub

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'benchmarks'))

import cost_commits  # noqa: E402
import cost_growth  # noqa: E402
import cost_profile  # noqa: E402
import fast_teacher  # noqa: E402
from steps import Bench, random_batch  # noqa: E402


@pytest.fixture(autouse=True)
def no_progress_left():
    yield
    MessageHub.get_current_instance().runtime_info.clear()


def toy_config():
    link = dict(student='neck', teacher='neck', criterion=dict(type='kd_mm.MSELoss'))
    model = distill_cfg(toys.retinanet(classes=10), toys.retinanet(), dict(fpn=link))
    return Config(dict(model=model, default_scope='mmdet'))


def test_ways_differ_in_the_teachers_arithmetic_only(monkeypatch):
    ways = dict(plain={}, again={}, bf16=dict(dtype='bf16'))
    monkeypatch.setattr(fast_teacher, 'WAYS', ways)
    batches = [random_batch(2, (64, 64), 'cpu') for _ in range(3)]
    cfg = toy_config()
    every = fast_teacher.benches(cfg, batches, device='cpu', random=True)
    assert 'dtype' not in cfg.model.teacher
    teachers = [b.distilled.distiller.teacher for b in every.values()]
    assert [t.dtype for t in teachers] == [None, None, torch.bfloat16]
    same = fast_teacher.differences(every['plain'], every['again'], batches)
    assert float(same['feature_error']) == float(same['loss_change_over_noise']) == 0
    rough = fast_teacher.differences(every['plain'], every['bf16'], batches)
    assert 1e-4 < float(rough['feature_error']) < 0.1
    assert float(rough['loss_change_over_noise']) > 0


def test_without_data_or_teacher_a_config_is_measured_on_random_images():
    cfg = toy_config()
    assert fast_teacher.real_batches(cfg, 'cpu', 2) is None


def test_digits_of_the_shipped_config_are_real():
    from digits_runs import DATA

    if not DATA.is_dir():
        pytest.skip('data/digits is not there')
    (path,) = (p for p in fast_teacher.DEFAULT if 'digits' in p)
    batches = fast_teacher.real_batches(Config.fromfile(ROOT / path), 'cpu', 2)
    assert len(batches) == fast_teacher.BATCHES
    inputs, samples = batches[0]
    assert inputs.shape[:2] == (2, 3) and len(samples[0].gt_instances.bboxes)


@pytest.mark.parametrize('axis', cost_growth.SWEEPS)
def test_one_thing_grows_at_a_time(axis):
    low, *_, high = cost_growth.SWEEPS[axis]
    for value in (low, high):
        point = cost_growth.BASE | {axis: value}
        for method in cost_growth.METHODS:
            links = cost_growth.links(method, point)
            assert len(links) == point['links']
            levels = [v for link in links.values() for v in link.get('levels', ())]
            if axis == 'channels':
                assert links['link0']['student'] == 'backbone[3]' and not levels
            else:
                count = point['links'] if axis == 'links' else point['levels']
                if axis != 'links' or value > 1:
                    assert levels == list(range(count))


def test_a_point_is_measured_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(cost_growth, 'METHODS', ('PKD', 'DPK'))
    rows = cost_growth.run('size', 64, device='cpu', repeats=2)
    assert [row['method'] for row in rows] == ['PKD', 'DPK']
    assert all(row['low'] <= row['overhead'] <= row['high'] for row in rows)
    cost_growth.draw(rows, tmp_path / 'growth.png')
    assert (tmp_path / 'growth.png').stat().st_size > 5000


def test_a_profile_adds_up_by_kind():
    kinds = {
        'aten::mkldnn_convolution': 'convolution',
        'aten::addmm': 'matrix product',
        'aten.mm': 'matrix product',
        'aten::_scaled_dot_product_flash_attention_for_cpu': 'attention',
        'aten::native_layer_norm_backward': 'normalisation',
        'aten::gelu': 'activation',
        'aten::copy_': 'else',
    }
    for operator, wanted in kinds.items():
        assert cost_profile.kind(operator) == wanted
    bench = Bench(toy_config(), data=random_batch(2, (64, 64), 'cpu'), device='cpu')
    spent = cost_profile.milliseconds(bench.teacher)
    assert spent['convolution'] > 0
    work = cost_profile.giga(bench.teacher)
    assert work['convolution'] == work.total() > 0


def test_two_versions_of_the_package_train_from_one_set_of_weights(tmp_path):
    link = dict(student='neck', teacher='neck', stages=[dict(type='kd_mm.ConvAdapter')])
    link['criterion'] = dict(type='kd_mm.MSELoss')
    model = distill_cfg(toys.retinanet(classes=10), toys.retinanet(), dict(fpn=link))
    loader = dict(batch_size=2)
    cfg = Config(dict(model=model, default_scope='mmdet', train_dataloader=loader))
    path, other = tmp_path / 'toy.py', tmp_path / 'other'
    cfg.dump(path)
    # another version: its losses are twice as large
    shutil.copytree(ROOT / 'kd_mm', other / 'kd_mm', ignore=lambda *_: ['.mim'])
    cost_commits.share_configs(other)
    mse = other / 'kd_mm/criteria/mse.py'
    mse.write_text(mse.read_text().replace('.square()', '.square().mul(2)'))

    def row(before):
        weights = tmp_path / f'{before.name}.pth'
        about = dict(before=before, weights=weights, repeats=2, rate=1e-3)
        return cost_commits.compare(path, 'a name', **about)

    assert row(ROOT)['losses differ by'] == '0.0e+00'
    assert float(row(other)['losses differ by']) > 0.1
