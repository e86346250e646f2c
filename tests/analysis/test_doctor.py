"""The doctor finds what is broken, and nothing in what is not."""

import copy
import json
import runpy
import sys

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.runner import Runner
from rich.console import Console

from kd_mm.analysis.doctor import course as courses
from kd_mm.analysis.doctor import (
    examine,
    features,
    forms,
    inputs,
    knowledge,
    print_findings,
    state,
    worst,
)
from kd_mm.analysis.doctor.examine import look_at
from kd_mm.analysis.doctor.finding import Finding
from kd_mm.analysis.doctor.patient import admit
from kd_mm.analysis.evaluate import evaluate
from kd_mm.registry import MODELS
from kd_mm.stages import Stage

DIGITS = ROOT / 'configs/kd_cls/digits'
LINKS = dict(
    logits=dict(
        student='head.fc',
        teacher='head.fc',
        criterion=dict(type='kd_mm.KDLoss', tau=4.0, weight=0.5),
    ),
    map=dict(
        student='backbone',
        teacher='backbone',
        criterion=dict(type='kd_mm.MSELoss', weight=1.0),
    ),
)


@MODELS.register_module()
class DetachForTheDoctor(Stage):
    """A mistake in a stage of one's own."""

    def forward(self, pair):
        pair.student = [s.detach() + 0 * s for s in pair.student]
        return pair


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    """A checkpoint of a small teacher that can read digits."""
    folder = tmp_path_factory.mktemp('teacher')
    cfg = Config.fromfile(DIGITS / 'resnet8.py')
    cfg.train_dataloader.dataset.dataset.indices = None
    cfg.train_cfg.update(max_epochs=6, val_interval=6)
    cfg.param_scheduler.T_max = 6
    cfg.default_hooks.checkpoint.interval = 6
    cfg.update(work_dir=str(folder), log_level='ERROR', experiment_name='doctor-cls')
    Runner.from_cfg(cfg).train()
    return folder / 'epoch_6.pth'


@pytest.fixture
def cfg(teacher):
    """A healthy run."""
    cfg = Config.fromfile(DIGITS / 'resnet20_resnet8_sokd.py')
    cfg.model.teacher = dict(config=str(DIGITS / 'resnet8.py'), checkpoint=str(teacher))
    cfg.model.links = copy.deepcopy(LINKS)
    return cfg


@pytest.fixture(scope='module')
def well(teacher, tmp_path_factory):
    """A healthy patient, for many checks; who spoils it mends it."""
    cfg = Config.fromfile(DIGITS / 'resnet20_resnet8_sokd.py')
    cfg.model.teacher = dict(config=str(DIGITS / 'resnet8.py'), checkpoint=str(teacher))
    cfg.model.links = copy.deepcopy(LINKS)
    folder = str(tmp_path_factory.mktemp('doctor'))
    patient, findings = admit(cfg, folder, student=None, images=96, steps=8)
    assert not findings
    return patient


def verdicts(found: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.verdict for finding in found}


def test_a_healthy_run_is_fine_and_left_as_it_was(cfg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, random = copy.deepcopy(cfg), torch.get_rng_state()
    told = []
    found = examine(cfg, images=96, steps=12, tell=told.append)
    assert [f for f in found if f.verdict != 'fine'] == []
    checks = {f.check.partition(': ')[2] or f.check for f in found}
    assert checks >= {
        'teacher mode', 'teacher weights', 'classes', 'ground truth', 'metric',
        'teacher labels', 'training labels', 'same images', 'image values',
        'teacher statistics', 'teacher images', 'taps', 'strides', 'CKA',
        'channel order', 'reach',
        'steps', 'gradient share', 'link loss', 'task loss', 'DDP', 'cost',
        'optimiser', 'resume',
    }  # fmt: skip
    assert cfg.to_dict() == before.to_dict() and torch.equal(
        random, torch.get_rng_state()
    )
    assert list(tmp_path.iterdir()) == []
    assert 's for 96 images' in told[0]


@pytest.fixture
def spoiled(well):
    """Mends after a test what it did to the networks."""
    networks = well.teacher, well.model
    states = [copy.deepcopy(network.state_dict()) for network in networks]
    yield well
    for network, before in zip(networks, states):
        network.load_state_dict(before)
    well.teacher.eval()


def test_a_teacher_that_cannot_be_evaluated_leaves_the_student_its_own_metric(
    well, monkeypatch
):
    values = []

    def noted(*args):
        values.append(evaluate(*args))
        return values[-1]

    monkeypatch.setattr(knowledge, 'evaluate', noted)
    list(knowledge.metrics(well))
    (metric,) = well.runner.val_loop.evaluator.metrics
    compute, failures = metric.compute_metrics, [IndexError('of classes')]

    def failing(results):
        if failures:
            raise failures.pop()
        return compute(results)

    monkeypatch.setattr(metric, 'compute_metrics', failing)
    (row,) = knowledge.metrics(well)
    assert row.check == 'teacher metric' and 'of classes' in row.text
    teacher, student, after_failure = values
    assert after_failure == student != teacher


def _zero(patient):
    for parameter in patient.teacher.parameters():
        parameter.data.zero_()


def _untrained(patient):
    for module in patient.teacher.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()


def _other_order(patient):
    fc = patient.teacher.head.fc
    fc.weight.data, fc.bias.data = fc.weight.data.roll(1, 0), fc.bias.data.roll(1, 0)


def _dead(patient):
    patient.model.backbone.conv1.weight.data.zero_()


FAULTS = {
    'train mode': (lambda p: p.teacher.train(), knowledge.weights, 'teacher mode'),
    'zeros': (_zero, knowledge.weights, 'teacher weights'),
    'untrained': (_untrained, knowledge.weights, 'teacher weights'),
    'other order': (_other_order, knowledge.metrics, 'teacher labels'),
    'other order, training': (_other_order, knowledge.truth, 'training labels'),
    'dead': (_dead, features.features, 'map: taps'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_what_is_broken_in_a_network_is_found(spoiled, fault):
    break_it, check, row = FAULTS[fault]
    assert 'wrong' not in verdicts(look_at(check, spoiled)).values()
    break_it(spoiled)
    assert verdicts(look_at(check, spoiled))[row] == 'wrong'


@pytest.mark.parametrize(('factor', 'says'), [(1e4, 'drowns'), (1e-5, 'nothing')])
def test_a_weight_off_by_powers_of_ten(well, factor, says):
    link = well.distiller.links['map']
    before = link.criterion.weight
    link.criterion.weight *= factor
    try:
        found = look_at(courses.training, well)
    finally:
        link.criterion.weight = before
    (share,) = [f for f in found if f.check == 'map: gradient share']
    assert share.verdict == 'wrong' and says in share.text
    # the weight it proposes is near the one that gives a half, far from the wrong one
    proposed = float(share.remedy.partition('weight=')[2].split()[0])
    assert 1e-3 < proposed / before < 1e3


@pytest.mark.parametrize('own', [None, dict(type='AdamW', lr=1e-3)])
def test_a_parameter_without_gradient_is_told_whatever_the_optimiser(
    cfg, tmp_path, own
):
    cfg.model.links.map.stages = [dict(type='kd_mm.ConvAdapter')]
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
    if own:
        wrapper |= dict(
            constructor='kd_mm.DistillerOptimWrapperConstructor',
            paramwise_cfg=dict(distiller=own),
        )
    cfg.optim_wrapper = wrapper
    patient, _ = admit(cfg, str(tmp_path), student=None, images=32, steps=2)
    assert courses.run(patient, linked=True).unused == []
    patient.model.backbone.idle = torch.nn.Parameter(torch.ones(1))
    assert courses.run(patient, linked=True).unused == ['backbone.idle']


def test_a_link_that_does_not_reach_the_student(cfg, tmp_path):
    cfg.model.links.map.stages = [dict(type='kd_mm.DetachForTheDoctor')]
    patient, _ = admit(cfg, str(tmp_path), student=None, images=32, steps=4)
    found = verdicts(look_at(state.reach, patient))
    assert found['map: reach'] == 'wrong' and found['logits: reach'] == 'fine'


@pytest.mark.slow
def test_a_checkpoint_of_another_student_is_told(cfg, tmp_path):
    state = {'stem.weight': torch.ones(1)}
    torch.save(dict(state_dict=state), tmp_path / 'other.pth')
    cfg.load_from = str(tmp_path / 'other.pth')
    (tmp_path / 'run').mkdir()
    patient, found = admit(cfg, str(tmp_path / 'run'), student=None, images=32, steps=4)
    row = next(f for f in found if f.check == 'student checkpoint')
    assert row.verdict == 'wrong' and 'is of another model' in row.text
    assert not patient.student_trained


@pytest.mark.slow
def test_of_several_teachers_the_one_that_is_broken_is_left_out(cfg, tmp_path):
    good = cfg.model.teacher
    cfg.model.teacher = dict(a=good, b=dict(good, checkpoint='nowhere.pth'))
    cfg.model.links.map.teacher = 'b:backbone'
    cfg.model.links.logits.teacher = 'a:head.fc'
    patient, found = admit(cfg, str(tmp_path), student=None, images=32, steps=4)
    assert patient is not None
    assert verdicts(found)[found[0].check] == 'wrong' and 'teacher.b' in found[0].text
    assert [f.verdict for f in found].count('wrong') == 1


@pytest.mark.slow
def test_a_start_that_is_not_there_is_left_out_of_a_list_of_them(cfg):
    drawn = dict(type='Kaiming', layer='Conv2d')
    missing = dict(type='Pretrained', checkpoint='nowhere.pth')
    cfg.model.student.backbone.init_cfg = [drawn, missing]
    found = examine(cfg, images=32, steps=4)
    assert found[0].verdict == 'wrong' and 'random student' in found[0].remedy
    assert verdicts(found)['logits: reach'] == 'fine'
    assert cfg.model.student.backbone.init_cfg == [drawn, missing]


@pytest.mark.slow
def test_of_several_teachers_the_one_that_knows_nothing_is_named(cfg):
    good = cfg.model.teacher
    cfg.model.teacher = dict(a=good, b=dict(config=good.config, allow_random=True))
    cfg.model.links.map.teacher = 'b:backbone'
    cfg.model.links.logits.teacher = 'a:head.fc'
    checks = verdicts(examine(cfg, images=32, steps=4))
    assert checks['teacher a weights'] == checks['teacher a metric'] == 'fine'
    assert checks['teacher b weights'] == 'wrong'
    assert checks['teacher b metric'] == 'wrong'


@pytest.mark.slow
def test_refusals_become_rows_and_the_rest_is_still_looked_at(cfg):
    cfg.model.teacher.checkpoint = 'nowhere.pth'
    cfg.model.links.map.student = 'bakbone'
    found = examine(cfg, images=32, steps=4)
    assert [f.verdict for f in found[:2]] == ['wrong', 'wrong']
    assert {'backbone' in found[i].text for i in range(2)} == {True, False}
    checks = verdicts(found)
    assert checks['logits: reach'] == 'fine'
    assert 'metric' not in checks  # a random teacher's says nothing


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        (lambda x: x.flip(3), 'mirrored'),
        (lambda x: x.flip(1), 'red and blue'),
        (lambda x: x / 255 - 3, 'another range'),
        (lambda x: 0.5 * x + 0.5 * x.flip(0), 'standard deviations apart'),
        (lambda x: x * 1.001, ''),
    ],
)
def test_how_images_differ_is_named(change, says):
    images = 50 + 20 * torch.randn(
        4, 3, 8, 8, generator=torch.Generator().manual_seed(0)
    )
    text = inputs.difference(images, change(images))
    assert says in text and bool(text) == bool(says)


def test_swapped_colours_and_missing_normalisation_are_told_from_statistics(spoiled):
    """The teacher's first statistics, taken from images of another form."""
    pre = spoiled.teacher.data_preprocessor
    before = pre.mean.clone(), pre.std.clone()
    pre.mean[:], pre.std[:] = 0.0, 1.0
    spoiled.distiller.teacher.connect(spoiled.model, spoiled.distiller.teacher.taps)
    try:
        found = verdicts(look_at(forms.statistics, spoiled))
    finally:
        pre.mean[:], pre.std[:] = before
        spoiled.distiller.teacher.connect(spoiled.model, spoiled.distiller.teacher.taps)
    assert found['teacher statistics'] == 'wrong'


def test_a_check_that_fails_says_so_and_stops_no_other(well):
    def broken(patient):
        yield Finding('before', 'fine', '')
        raise RuntimeError('whatever')

    found = look_at(broken, well)
    assert [f.verdict for f in found] == ['fine', 'look'] and 'whatever' in found[
        1
    ].text


def test_the_table_shows_keys_in_brackets(capsys):
    finding = Finding('a', 'wrong', 'links.a.stages[0] fails', 'give levels=[0]')
    print_findings([finding], Console(width=100))
    out = capsys.readouterr().out
    assert 'stages[0]' in out and 'levels=[0]' in out and '1 wrong' in out
    assert worst([finding]) == 'wrong' and worst([]) == 'fine'


@pytest.mark.slow
def test_the_tool_exits_with_1_and_writes_json(cfg, tmp_path, monkeypatch, capsys):
    cfg.model.links.pop('map')
    cfg.model.links.logits.criterion.weight = 1e-6
    cfg.dump(tmp_path / 'run.py')
    monkeypatch.chdir(tmp_path)
    call = 'doctor run.py --images 32 --steps 4 --json found.json'
    monkeypatch.setattr(sys, 'argv', call.split())
    assert runpy.run_path(str(ROOT / 'tools/doctor.py'))['main']() == 1
    rows = json.loads((tmp_path / 'found.json').read_text())
    assert any(row['verdict'] == 'wrong' for row in rows)
    assert 'gradient share' in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {'run.py', 'found.json'}


@pytest.mark.parametrize('order', ['as they are', 'swapped'])
def test_swapped_colours_are_told_from_what_the_teacher_knows(well, monkeypatch, order):
    """A teacher whose loss is lowest where red is brightest, on reddish images."""
    image = torch.tensor([2.0, 1.0, 0.0]).view(1, 3, 1, 1).expand(4, 3, 8, 8)
    image = image.flip(1) if order == 'swapped' else image
    monkeypatch.setattr(forms, '_as_got', lambda *_: [(image, [])] * 2)

    def loss(inputs, samples):
        return dict(loss_cls=[3 + inputs[:, 2].mean() - inputs[:, 0].mean()])

    monkeypatch.setattr(well.teacher, 'loss', loss)
    swap = {'with red and blue swapped': lambda x: x.flip(1)}
    monkeypatch.setattr(forms, '_other_forms', lambda *_: swap)
    (found,) = forms._losses(well, 'teacher', well.teacher)
    assert found.verdict == ('wrong' if order == 'swapped' else 'fine')


def _larger(cfg):
    cfg.model.teacher.scale = 2.0
    del cfg.model.links['map']


def _two(cfg):
    one = cfg.model.teacher.to_dict()
    cfg.model.teacher = dict(a=one, b=copy.deepcopy(one))
    both = [f'{name}:head.fc' for name in 'ab']
    cfg.model.links.logits.update(
        teacher=both, stages=[dict(type='kd_mm.MergeTeachers')]
    )
    cfg.model.links.map.teacher = 'b:backbone'


@pytest.mark.parametrize(
    'change', [lambda c: c.model.update(teacher='ema'), _larger, _two]
)
def test_every_kind_of_teacher_is_looked_at(cfg, tmp_path, change):
    change(cfg)
    patient, findings = admit(cfg, str(tmp_path), student=None, images=96, steps=4)
    assert {f.verdict for f in findings} <= {'fine'}
    for check in (inputs.same_images, features.features, knowledge.weights):
        found = look_at(check, patient)
        assert found and all(f.verdict == 'fine' for f in found), found
