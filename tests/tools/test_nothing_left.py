"""What a refused, a broken and an interrupted start leave behind: nothing."""

import pytest

from kd_mm.errors import ConfigError
from kd_mm.utils import cli
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
    with pytest.raises((SystemExit, RuntimeError)), Session() as session:
        session.folder(tmp_path / 'old')
        session.folder(tmp_path / 'empty' / 'inner')
        (session.folder(tmp_path / 'full') / 'channels.json').touch()
        raise error
    assert sorted(p.name for p in tmp_path.iterdir()) == ['full', 'old']


@pytest.mark.parametrize('error', [ConfigError('a'), KeyboardInterrupt()])
def test_an_older_work_dir_loses_only_what_this_start_made(tmp_path, error):
    work = tmp_path / 'work'
    (work / 'earlier').mkdir(parents=True)
    with pytest.raises(SystemExit), Session() as session:
        session.work_dir = str(work)
        session._remember(work)
        (work / 'now').mkdir()
        (work / 'now' / 'run.log').touch()
        raise error
    assert [p.name for p in work.iterdir()] == ['earlier']
