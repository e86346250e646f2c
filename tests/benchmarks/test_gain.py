"""benchmarks/gain.py: rows, failures, suites."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, DefaultScope

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'benchmarks'))

import setting_curve  # noqa: E402
from digits_runs import metric  # noqa: E402
from gain import SUITES, add, one_run, read  # noqa: E402
from share import HOSTS, STARTS, suite_of  # noqa: E402
from steps import without_weights  # noqa: E402


def test_processes_that_add_rows_at_once_lose_none(tmp_path):
    path = tmp_path / 'rows.json'
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: add(path, dict(method='a', seed=i)), range(40)))
    assert sorted(row['seed'] for row in read(path)) == list(range(40))
    assert json.loads(path.read_text()) == read(path)


@pytest.mark.parametrize('name', HOSTS)
def test_every_host_can_be_started_at_every_weight(name):
    suite, rows = suite_of(name, 0.8)
    assert len(rows) == len(suite.methods) == 1 + 2 * len(STARTS) * len(HOSTS[name][1])


def test_a_run_that_diverges_says_so_and_another_has_its_metrics(tmp_path):
    suite = SUITES['digits-cls']
    setting = dict(images=100, epochs=1)

    def broken(folder, **kwargs):
        cfg = suite.config(folder, **kwargs)
        cfg.optim_wrapper.optimizer.lr = 1e30
        return cfg

    for config, key in ((suite.config, 'top1'), (broken, 'failed')):
        one = replace(suite, config=config, name='test-gain')
        row = one_run(one, 'alone', 0, setting, 'cpu')
        assert key in row and row['seconds'] > 0 and row['torch']
    assert 'not finite' in row['failed']


def test_a_detector_that_finds_nothing_has_no_metric():
    runner = SimpleNamespace(message_hub=MessageHub.get_instance('finds nothing'))
    runner.message_hub.update_scalar('val/coco/bbox_mAP', 0.25)
    assert metric(runner) == 25.0
    with pytest.raises(ValueError, match='no coco/bbox_mAP_50: nothing'):
        metric(runner, 'coco/bbox_mAP_50')


def test_every_suite_has_its_base_and_real_configs():
    for suite in SUITES.values():
        assert suite.base in suite.methods and suite.teacher.is_file()


def test_fewer_epochs_keep_the_shape_of_the_schedule(tmp_path):
    suite = SUITES['cifar100-resnet56-resnet20']
    cfg = suite.config(tmp_path / 'x', seed=3, epochs=24)
    assert cfg.param_scheduler.milestones == [15, 18, 21]
    assert cfg.train_cfg.max_epochs == 24 and cfg.randomness.seed == 3


@pytest.mark.parametrize(
    ('suite', 'method'),
    [
        ('cifar100-resnet56-resnet20', 'KD + PKD + SoKD'),
        ('coco-femto', 'KCD + FitNet without adapter'),
        ('coco-retinanet-mbv2', 'KCD + FitNet without adapter'),
        ('coco-retinanet-mbv2', 'DPK'),
    ],
)
def test_links_that_no_shipped_config_has_fit(suite, method, tmp_path):
    suite = SUITES[suite]
    cfg = without_weights(suite.config(tmp_path / 'x', seed=0, epochs=1)._cfg_dict)
    student = dict(cfg.model)
    if shared := cfg.get('data_preprocessor'):
        student.setdefault('data_preprocessor', shared)
    teacher = dict(config=str(suite.teacher), allow_random=True)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(
            dict(
                type='kd_mm.Distill',
                student=student,
                teacher=teacher,
                links=suite.methods[method],
                trial_size=suite.trial_size,
            )
        )
    assert set(model.distiller.links) == set(suite.methods[method])


def test_a_curve_goes_through_the_rows_that_did_not_fail(tmp_path, monkeypatch):
    def row(method, images, mAP):
        return dict(method=method, images=images, mAP=mAP)

    rows = [row('b', 50, 3.0), row('a', 600, 9.0), row('a', 25, 1.0), row('a', 25, 2.0)]
    rows.append(dict(method='a', images=50, failed='diverged'))
    found = setting_curve.points(rows, 'images', 'mAP')
    assert found['a'].tolist() == [[25, 1], [25, 2], [600, 9]]
    assert found['b'].tolist() == [[50, 3]]
    (tmp_path / 'suite.json').write_text(json.dumps(rows))
    monkeypatch.setattr(setting_curve, 'RESULTS', tmp_path)
    out = tmp_path / 'curve.png'
    words = ['suite', 'images', str(out), '--metric', 'mAP', '--methods', 'a']
    monkeypatch.setattr(sys, 'argv', ['setting_curve.py', *words])
    setting_curve.main()
    assert out.stat().st_size > 1000
