"""Every tool reads foreign files by the one function that runs nothing in them."""

import os
import pathlib
import subprocess
import sys

import pytest
import torch
import toys
from helpers import build
from mmengine.config import Config


class Evil:
    """Its pickle writes a file when it is read."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path(self.marker),))


# what is called, where `bad` stands in it, and how the line names that place
PLACES = {
    'teacher': (
        'train {distilled} --cfg-options model.teacher.checkpoint={bad}',
        'teacher.checkpoint',
    ),
    'resume': ('train {distilled} --resume {bad}', '--resume: checkpoint'),
    'load_from': ('train {plain} --cfg-options load_from={bad}', 'load_from'),
    'init_cfg': (
        'train {plain} --cfg-options model.backbone.init_cfg.type=Pretrained '
        'model.backbone.init_cfg.checkpoint={bad}',
        'checkpoint',
    ),
    'test': ('test {distilled} {bad}', 'checkpoint'),
    'export': ('export_student {bad} {out}', 'checkpoint'),
    'convert': ('convert_checkpoint {plain} {bad} {out}', 'checkpoint'),
    'rank': ('rank_teachers {distilled} {plain}={bad}', 'teacher.checkpoint'),
    'rank student': (
        'rank_teachers {distilled} {plain}={good} --student {bad}',
        '--student',
    ),
    'channels': ('analyse_channels {distilled} --student {bad}', '--student'),
    'channels teacher': (
        'analyse_channels {distilled} --teacher {bad}',
        'teacher.checkpoint',
    ),
    'areas': ('draw_areas {distilled} {bad} {image}', 'checkpoint'),
}
TRAINING = ('teacher', 'resume', 'load_from', 'init_cfg', 'test')


@pytest.fixture
def call(toy, run, monkeypatch):
    """Call a tool at a place of ``PLACES`` with ``bad``; exit code and lines."""
    monkeypatch.chdir(toy)
    good = build(toys.retinanet(classes=1), seed=1)
    torch.save(dict(state_dict=good.state_dict()), toy / 'good.pth')

    def call(place, bad, *more):
        tool, *arguments = PLACES[place][0].split()
        paths = dict(bad=bad, out=toy / 'out.pth', image=toy / '0.png')
        paths.update({n: toy / f'{n}.py' for n in ('plain', 'distilled')})
        arguments = [a.format(good=toy / 'good.pth', **paths) for a in arguments]
        if place in TRAINING:
            arguments += ['--work-dir', toy / 'work']
        return run(tool, *arguments, *more)

    return call


@pytest.mark.parametrize('place', PLACES)
def test_a_hostile_file_is_refused_in_every_place(toy, call, place):
    marker, bad = toy / 'ran', toy / 'bad.pth'
    torch.save(dict(state_dict={'a': Evil(marker)}), bad)
    code, lines = call(place, bad)
    assert code == 2 and len(lines) == 1, lines
    assert f'error: {PLACES[place][1]} {bad} holds pathlib' in lines[0]
    assert '--trust' in lines[0]
    assert not marker.exists()
    assert not (toy / 'work').exists() and not (toy / 'out.pth').exists()


@pytest.mark.parametrize('place', PLACES)
def test_what_is_no_checkpoint_is_one_line_in_every_place(toy, call, place):
    bad = toy / 'bad.pth'
    bad.write_text('<html>Please log in</html>')
    code, lines = call(place, bad)
    assert code == 2 and len(lines) == 1, lines
    assert f'error: {PLACES[place][1]} {bad} is a web page' in lines[0]
    (toy / 'folder.pth').mkdir()
    code, lines = call(place, toy / 'folder.pth')
    assert code == 2 and len(lines) == 1, lines
    assert f'error: {PLACES[place][1]} {toy / "folder.pth"} is a folder' in lines[0]
    assert not (toy / 'work').exists()


def like_the_student(config):
    """Give the toy a teacher of the student's size."""
    cfg = Config.fromfile(config)
    cfg.model.teacher.config = dict(model=toys.retinanet(classes=1))
    cfg.dump(config)


@pytest.mark.parametrize('place', ['load_from', 'test', 'teacher'])
def test_trust_reads_what_is_refused(toy, call, place):
    """The file's code runs then: that is what the option says."""
    marker, bad = toy / 'ran', toy / 'bad.pth'
    good = torch.load(toy / 'good.pth')
    like_the_student(toy / 'distilled.py')
    torch.save(dict(good, meta=dict(x=Evil(marker))), bad)
    assert call(place, bad, '--trust') == (0, [])
    assert marker.exists()


def test_a_teacher_that_is_the_students_own_start_is_refused(toy, call):
    like_the_student(toy / 'distilled.py')
    same = ('--cfg-options', f'load_from={toy / "good.pth"}')
    code, lines = call('teacher', toy / 'good.pth', *same)
    assert code == 2 and 'student and teacher have the same weights' in lines[0]
    assert not (toy / 'work').exists()
    meant = 'model.teacher.allow_same=True'
    assert call('teacher', toy / 'good.pth', *same, meant) == (0, [])


def test_resume_does_not_run_the_config_in_a_checkpoint(toy, run):
    """MMEngine reads the number of GPUs from `meta.config` by executing it."""
    marker, work = toy / 'ran', toy / 'work'
    options = ('--work-dir', work, '--resume', '--cfg-options')
    assert run('train', toy / 'plain.py', *options[:2]) == (0, [])
    content = torch.load(work / 'epoch_1.pth', weights_only=False)
    content['meta']['config'] = f"import os\nos.mkdir('{marker}')\n"
    torch.save(content, work / 'epoch_1.pth')
    more = 'train_cfg.max_epochs=2'
    assert run('train', toy / 'plain.py', *options, more) == (0, [])
    assert (work / 'epoch_2.pth').exists() and not marker.exists()


def test_a_second_run_in_a_work_dir_is_told_and_leaves_it_alone(toy, run):
    work = toy / 'work'
    hold = 'import sys, time; from kd_mm.utils.work_dir import alone\n'
    hold += 'with alone(sys.argv[1]): print(flush=True); time.sleep(60)'
    work.mkdir()
    command = [sys.executable, '-W', 'ignore', '-c', hold, str(work)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE)
    first.stdout.readline()
    before = sorted(os.listdir(work))
    code, lines = run('train', toy / 'plain.py', '--work-dir', work)
    assert code == 2 and f'is in use: process {first.pid} on ' in lines[0]
    assert sorted(os.listdir(work)) == before
    first.kill()
    first.communicate()
    assert run('train', toy / 'plain.py', '--work-dir', work) == (0, [])


def test_a_work_dir_that_cannot_be_written_is_one_line(toy, run):
    code, lines = run('train', toy / 'plain.py', '--work-dir', '/sys/kd_mm/work')
    assert code == 2 and 'work dir /sys/kd_mm/work cannot be written' in lines[0]


def test_resume_names_a_truncated_file_and_offers_a_whole_one(toy, run):
    work = toy / 'work'
    more = ('--cfg-options', 'train_cfg.max_epochs=2')
    assert run('train', toy / 'plain.py', '--work-dir', work, *more) == (0, [])
    os.truncate(work / 'epoch_2.pth', 10_000)
    options = ('--work-dir', work, '--resume')
    code, lines = run('train', toy / 'plain.py', *options)
    older = work / 'epoch_1.pth'
    assert code == 2 and f'{work / "epoch_2.pth"} is truncated' in lines[0]
    assert lines[0].endswith(f'{older} is whole: --resume {older}')
    assert run('train', toy / 'plain.py', *options, older, *more) == (0, [])
