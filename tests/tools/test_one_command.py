"""``train.py STUDENT --teacher TEACHER``: any plain config, distilled by one line."""

import argparse
import subprocess
import sys
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from new_style import DETECTOR
from toy_run import write_teacher

import kd_mm
from kd_mm.errors import ConfigError
from kd_mm.utils.export import plain_student
from kd_mm.utils.fine_tuning import proposal
from kd_mm.utils.one_command import _result, add_arguments, distilled
from kd_mm.utils.session import Session


@pytest.fixture
def pair(toy, monkeypatch):
    """The folder of toys, with a teacher and its weights in it."""
    monkeypatch.setattr(Runner, '_log_env', lambda *_: None)
    write_teacher(toy)
    return toy


def line(folder, *more, student='plain.py'):
    """The command line, its work dir left to the tool."""
    teacher = ('--teacher', folder / 'wide.py')
    weights = ('--teacher-checkpoint', folder / 'wide.pth')
    return 'train', folder / student, *teacher, *weights, '--method', 'fitnet', *more


def said(folder):
    """All that the runs in a folder have logged."""
    return ''.join(path.read_text() for path in sorted(folder.glob('*/*.log')))


def state_of(path):
    return torch.load(path, weights_only=False, map_location='cpu')['state_dict']


@pytest.mark.slow
def test_a_plain_config_is_distilled_resumed_and_its_copy_trains_again(
    pair, run, monkeypatch
):
    """The copy by MMDetection's own script, to the very same weights."""
    monkeypatch.chdir(pair)
    assert run(*line(pair)) == (0, [])
    work = pair / 'work_dirs' / 'plain_fitnet'  # not that of the student alone
    assert 'loss_kd_' in said(work)
    cfg = Config.fromfile(work / 'plain.py')
    assert cfg.model.type == 'kd_mm.Distill' and isinstance(cfg.model.links, dict)
    assert cfg.model.student == Config.fromfile(pair / 'plain.py').model
    assert cfg.model.teacher.config == str(pair / 'wide.py')

    script = Path(mmdet.__file__).parent / '.mim/tools/train.py'
    again = [sys.executable, '-W', 'ignore', script, work / 'plain.py']
    done = subprocess.run(
        [*again, '--work-dir', pair / 'again'], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, other = (state_of(folder / 'epoch_1.pth') for folder in (work, pair / 'again'))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)

    longer = ('--cfg-options', 'train_cfg.max_epochs=2')
    assert run(*line(pair, '--resume', *longer)) == (0, [])
    assert 'resumed epoch: 1, iter: 4' in said(work)
    assert (work / 'epoch_2.pth').is_file()


def test_a_trained_student_goes_on_and_a_schedule_is_proposed(pair, run):
    cfg = Config.fromfile(pair / 'plain.py')
    student = kd_mm.utils.export.build_plain(cfg)
    with torch.no_grad():
        student.bbox_head.retina_cls.bias.fill_(-7.0)  # no initialisation makes this
    state = student.state_dict()
    del state['bbox_head.retina_reg.bias']
    torch.save(state, pair / 'student.pth')
    options = (
        '--student-checkpoint',
        pair / 'student.pth',
        '--work-dir',
        pair / 'work',
    )
    assert run(*line(pair, *options, '--resume')) == (0, [])  # nothing to resume yet
    log = said(pair / 'work')
    made, out = (pair / 'work' / name for name in ('epoch_1.pth', 'student.pth'))
    commands = log.partition('the last checkpoint is ')[2].splitlines()[0].split('; ')
    assert commands == [
        str(made),
        f'python -m kd_mm test {pair / "work" / "plain.py"} {made}',
        f'python -m kd_mm export_student {made} {out} (the plain student)',
    ]
    bias = state_of(pair / 'work' / 'epoch_1.pth')['bbox_head.retina_cls.bias']
    assert torch.allclose(bias, torch.tensor(-7.0), atol=0.1)
    assert '1 tensors of the student are not in it' in log and 'retina_reg.bias' in log
    assert 'we propose 0.0005: --cfg-options optim_wrapper.optimizer.lr=0.0005' in log
    written = Config.fromfile(pair / 'work' / 'plain.py')
    assert written.optim_wrapper.optimizer.lr == 0.001  # said, not done

    assert run(*line(pair, *options, '--resume')) == (0, [])
    text = 'is at epoch 1 of 1: nothing is left to train; a larger --epochs trains on'
    assert text in said(pair / 'work')

    # with something to resume the same command line starts from that
    assert run(*line(pair, *options, '--resume', '--epochs', 2)) == (0, [])
    log = said(pair / 'work')
    assert 'resumed epoch: 1' in log and (pair / 'work' / 'epoch_2.pth').is_file()
    assert 'was made for 1 epochs, and this one is for 2' in log
    code, lines = run(*line(pair, '--epochs', 0))
    assert code == 2 and lines == ['error: --epochs=0: at least 1']
    code, lines = run('doctor', *line(pair, '--student-checkpoint', 'no.pth')[1:])
    assert code == 1 and not lines  # a finding in its table, not a crash


def test_weights_named_in_the_teachers_config_are_taken_and_told(pair, run):
    (pair / 'from.py').write_text(
        f"_base_ = './wide.py'\nload_from = '{pair / 'wide.pth'}'\n"
    )
    where = ('--teacher', pair / 'from.py', '--method', 'fitnet')
    work = ('--work-dir', pair / 'work')
    assert run('train', pair / 'plain.py', *where, *work) == (0, [])
    log = said(pair / 'work')
    assert f'the weights that its config starts from, {pair / "wide.pth"}' in log


def test_starting_over_in_the_folder_of_another_run_is_told(pair, run):
    work = pair / 'work'
    again = ('train', pair / 'plain.py', '--work-dir', work)
    assert run(*again) == (0, [])
    assert 'starts anew' not in said(work)
    assert run(*again) == (0, [])
    assert f'{work}/epoch_1.pth is of an earlier run' in said(work)
    assert f'the last checkpoint is {work}/epoch_1.pth; python -m kd_mm test' in said(
        work
    )


def test_going_on_from_elsewhere_in_the_folder_of_another_run_is_told(pair, run):
    first, second = pair / 'first', pair / 'second'
    for work in (first, second):
        assert run('train', pair / 'plain.py', '--work-dir', work) == (0, [])
    more = ('--resume', first / 'epoch_1.pth', '--epochs', 2)
    assert run('train', pair / 'plain.py', '--work-dir', second, *more) == (0, [])
    text = f'{second}/epoch_1.pth is of an earlier run, and this one goes on from '
    assert f'{text}{first}/epoch_1.pth' in said(second)
    assert run('train', pair / 'plain.py', '--work-dir', first, *more) == (0, [])
    assert 'earlier run' not in said(first)


@pytest.mark.parametrize(
    ('mistake', 'text'),
    [
        (('--teacher-checkpoint', 'no.pth'), '--teacher-checkpoint no.pth '),
        (('--method', 'sodk'), "links='sodk' is no method; "),
    ],
)
def test_a_slip_of_the_command_is_told_before_anything_is_built(
    pair, run, monkeypatch, mistake, text
):
    monkeypatch.setattr(Session, 'build', None)
    code, lines = run(*line(pair, *mistake))
    assert code == 2 and lines[0].startswith(f'error: {text}')


def test_heads_of_other_classes_than_the_data_are_one_line(pair, run):
    """MMDetection counts them at the beginning of the first epoch."""
    (pair / 'other.py').write_text(
        "_base_ = './plain.py'\n"
        'model = dict(bbox_head=dict(num_classes=3))\n'
        "custom_hooks = [dict(type='NumClassCheckHook')]\n"
    )
    code, lines = run(*line(pair, '--work-dir', pair / 'work', student='other.py'))
    assert code == 2 and len(lines) == 1
    assert 'num_classes' in lines[0] and 'RetinaHead' in lines[0]


def test_the_best_checkpoint_is_the_result():
    hook = CheckpointHook(save_best=['a', 'b'], rule='greater')
    hook.last_ckpt = 'epoch_2.pth'
    assert _result({}, [hook]) == ('last', 'epoch_2.pth')
    hook.best_ckpt_path_dict = dict(a=None, b='best_b_epoch_1.pth')
    assert _result({}, [hook]) == ('best', 'best_b_epoch_1.pth')
    one = CheckpointHook(save_best='a', rule='greater')
    one.best_ckpt_path = 'best_a_epoch_1.pth'
    assert _result({}, [one]) == ('best', 'best_a_epoch_1.pth')
    end = dict(resume=True, load_from='epoch_9.pth')
    assert _result(end, [CheckpointHook()]) == ('last', 'epoch_9.pth')
    assert not _result(dict(load_from='coco.pth'), [CheckpointHook()])[1]


def test_new_style_configs_are_distilled(pair, run):
    (pair / 'student.py').write_text(DETECTOR.replace('{folder}', str(pair)))
    work = ('--work-dir', pair / 'work')
    assert run(*line(pair, *work, student='student.py')) == (0, [])
    assert Config.fromfile(pair / 'work' / 'student.py').model.links

    teacher = Config.fromfile(pair / 'student.py')  # goes into the student's config
    made = kd_mm.distil(teacher, teacher, teacher_checkpoint='a.pth')
    made.dump(pair / 'made.py')
    inside = Config.fromfile(pair / 'made.py').model.teacher.config
    assert inside.model.type == 'mmdet.models.RetinaNet' and len(inside) == 2


def test_the_function_makes_configs_that_a_runner_trains(pair, tmp_path):
    """MMPretrain's keep their preprocessor beside the model."""
    cfg = Config.fromfile(pair / 'classifier.py')
    student = plain_student(cfg)
    teacher = Config(dict(student.to_dict(), model=cfg.model.teacher.config.model))
    network = kd_mm.utils.export.build_plain(teacher)
    torch.save(network.state_dict(), pair / 'teacher.pth')
    before = student.pretty_text
    made = kd_mm.distil(
        student, teacher, method='kd', teacher_checkpoint=pair / 'teacher.pth'
    )
    assert student.pretty_text == before
    assert made.work_dir == './work_dirs/classifier_kd'
    made.work_dir = str(tmp_path / 'work')
    runner = Runner.from_cfg(made)
    runner.train()
    model = runner.model
    assert type(model).__name__ == 'DistilledImageClassifier'
    assert model.data_preprocessor.mean.unique().tolist() == [127.5]
    theirs = model.distiller.teacher.model.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in network.state_dict().items())


def test_weights_to_start_from_make_a_trained_student_however_they_are_said(pair):
    for more in ([f'--student-checkpoint={pair / "plain.pth"}'], None):
        options = {} if more else dict(load_from=str(pair / 'plain.pth'))
        args = argparse.ArgumentParser()
        add_arguments(args)
        words = ['--teacher', str(pair / 'wide.py')]
        words += ['--teacher-checkpoint', str(pair / 'wide.pth')]
        found = args.parse_args(words + (more or []))
        found.cfg_options = options
        cfg = distilled(Config.fromfile(pair / 'plain.py'), found)
        assert cfg.model.links == 'auto_trained'
        assert cfg.load_from == str(pair / 'plain.pth')


def test_what_a_teacher_without_a_file_imports_is_imported_by_the_run(pair):
    student, teacher = (Config.fromfile(pair / f'{n}.py') for n in ('plain', 'wide'))
    student.custom_imports = dict(imports='argparse')
    teacher.custom_imports = dict(imports=['json', 'argparse'])
    made = kd_mm.distil(student, teacher, teacher_checkpoint=pair / 'wide.pth')
    assert made.custom_imports.imports == ['argparse', 'json']
    assert not made.custom_imports.allow_failed_imports
    assert student.custom_imports.imports == 'argparse'


def test_the_function_says_what_it_cannot_take(pair):
    plain, wide, weights = (pair / name for name in ('plain.py', 'wide.py', 'wide.pth'))
    cfg = kd_mm.distil(plain, wide, teacher_checkpoint=weights)
    assert cfg.model.links == 'auto'
    with pytest.raises(ConfigError, match='distilled already'):
        kd_mm.distil(cfg, wide, teacher_checkpoint=weights)
    with pytest.raises(ConfigError, match='no weights.*teacher_checkpoint'):
        kd_mm.distil(plain, wide)
    with pytest.raises(ConfigError, match='one is a network and the other a config'):
        kd_mm.distil(plain, torch.nn.Linear(1, 1))
    with pytest.raises(ConfigError, match='teacher: expected .* a network, got 3'):
        kd_mm.distil(plain, 3)
    with pytest.raises(ConfigError, match='has no model'):
        kd_mm.distil(Config(dict(a=1)), wide, teacher_checkpoint=weights)
    network = kd_mm.utils.export.build_plain(Config.fromfile(plain))
    with pytest.raises(ConfigError, match='student_checkpoint: a network .* has its'):
        kd_mm.distil(network, network, student_checkpoint='a.pth')


def schedule(**kwargs):
    return Config(
        dict(
            dict(
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.02)),
                train_cfg=dict(by_epoch=True, max_epochs=24),
                param_scheduler=[
                    dict(type='LinearLR', by_epoch=False, begin=0, end=500),
                    dict(type='MultiStepLR', begin=0, end=24, milestones=[16, 22]),
                ],
                custom_hooks=[dict(type='A'), dict(type='B', switch_epoch=21)],
            ),
            **kwargs,
        )
    )


def test_a_proposed_schedule_is_whole():
    cfg = schedule()
    text = proposal(cfg, {})
    assert '(24 epochs from lr 0.02)' in text and '12 epochs, or fewer, from' in text
    assert text.endswith(': --epochs 12 --cfg-options optim_wrapper.optimizer.lr=0.01')

    text = proposal(schedule(train_cfg=dict(max_epochs=2)), {})
    assert 'we propose 1 epoch, from lr 0.01: --epochs 1 --cfg' in text
    text = proposal(schedule(train_cfg=dict(max_epochs=1)), {})
    assert 'epoch' not in text and 'we propose 0.01: --cfg-options' in text

    iterations = schedule(
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=900),
        param_scheduler=dict(type='CosineAnnealingLR', by_epoch=False, T_max=900),
    )
    text = proposal(iterations, {})
    assert '450 iters' in text and 'param_scheduler.T_max=450' in text

    # to the end by itself, and one of which nobody knows the numbers
    iterations.param_scheduler = [
        dict(type='PolyLR', by_epoch=False, end=None),
        dict(type='MyCosine', by_epoch=False, hills=900),
    ]
    assert '450 iters' in proposal(iterations, {})


def test_who_has_chosen_a_schedule_is_not_told():
    lr = 'optim_wrapper.optimizer.lr'
    assert proposal(schedule(), {lr: 1}) == ''
    assert proposal(schedule(), {lr: 1}, shortened=True) == ''
    for text in (
        proposal(schedule(), {}, shortened=True),
        proposal(schedule(), {'train_cfg.max_epochs': 1}),
    ):
        assert 'epochs' not in text and text.endswith(f': --cfg-options {lr}=0.01')
    assert proposal(schedule(optim_wrapper=dict(a=dict(), b=dict())), {}) == ''
