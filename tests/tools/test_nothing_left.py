"""What a refused, a broken and an interrupted start leave behind: nothing."""

import pytest

from kd_mm.errors import ConfigError
from kd_mm.utils import cli, session
from kd_mm.utils.session import Session

REFUSED = [
    ('analyse_channels', '{toy}/plain.py'),
    ('analyse_channels', '{toy}/distilled.py', '--student', 'no.pth'),
    ('rank_teachers', '{toy}/distilled.py', '{toy}/no.py=no.pth'),
    ('draw_areas', '{toy}/distilled.py', '{toy}/classes.txt', '{toy}/0.png'),
]


@pytest.mark.parametrize('arguments', REFUSED, ids=lambda a: ' '.join(a[:1] + a[2:3]))
def test_a_refused_report_leaves_no_folder(toy, run, arguments):
    tool, *arguments = [a.format(toy=toy) for a in arguments]
    code, lines = run(tool, *arguments, '--out', toy / 'new' / 'out')
    assert code == 2 and len(lines) == 1
    assert not (toy / 'new').exists()


def test_a_traceback_before_training_leaves_no_work_dir(toy, run, monkeypatch):
    build = cli.build_runner

    def fail(cfg):
        build(cfg)
        raise RuntimeError('shape mismatch')

    monkeypatch.setattr(cli, 'build_runner', fail)
    with pytest.raises(RuntimeError, match='shape mismatch'):
        run('train', toy / 'plain.py', '--work-dir', toy / 'new' / 'work')
    assert not (toy / 'new').exists()


@pytest.mark.parametrize('error', [ConfigError('a'), RuntimeError('a')])
def test_what_was_there_before_and_results_stay(tmp_path, error):
    (tmp_path / 'old').mkdir()
    with pytest.raises((SystemExit, RuntimeError)), Session() as one:
        one.folder(tmp_path / 'old')
        one.folder(tmp_path / 'empty' / 'inner')
        (one.folder(tmp_path / 'full') / 'channels.json').touch()
        raise error
    assert sorted(p.name for p in tmp_path.iterdir()) == ['full', 'old']


def test_a_work_dir_that_another_run_has_made_meanwhile_stays(toy, run, monkeypatch):
    work = toy / 'new' / 'work'

    def taken(folder):
        work.mkdir(parents=True, exist_ok=True)
        (work / 'other.log').touch()
        raise ConfigError('in use')

    monkeypatch.setattr(session, 'alone', taken)
    assert run('train', toy / 'plain.py', '--work-dir', work)[0] == 2
    assert (work / 'other.log').exists()
