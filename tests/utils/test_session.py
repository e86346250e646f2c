"""What a tool says last: of a run that is stopped, and of one that is through."""

import signal

import pytest
from mmengine.config import Config
from test_work_dir import save

from kd_mm.errors import ConfigError
from kd_mm.utils.session import Session
from kd_mm.utils.work_dir import stamps


def stopped_at(session, cfg, capsys, save=()):
    """What a run says that is interrupted once ``save`` has been called."""
    with pytest.raises(SystemExit) as stop, session:
        session.work_dir, session.cfg, session._trains = cfg['work_dir'], cfg, True
        session._found = stamps(cfg['work_dir'])
        for call in save:
            call()
        signal.raise_signal(signal.SIGINT)
    assert stop.value.code == 130
    return capsys.readouterr().err


def test_an_interrupted_run_names_no_checkpoint_of_another_run(tmp_path, capsys):
    save(tmp_path, 4)
    cfg = dict(work_dir=str(tmp_path))
    text = stopped_at(Session(), cfg, capsys)
    assert 'nothing was saved' in text and 'epoch_4' not in text
    text = stopped_at(Session(), cfg, capsys, [lambda: save(tmp_path, 1, note=False)])
    assert text.endswith(
        f'--resume {tmp_path}/epoch_1.pth\n'
    )  # the note is the other's
    text = stopped_at(Session(), cfg, capsys, [lambda: save(tmp_path, 2)])
    assert 'epoch_2.pth can be resumed' in text and text.endswith('--resume\n')
    path = save(tmp_path / 'elsewhere', 3)
    text = stopped_at(Session(), dict(cfg, resume=True, load_from=path), capsys)
    assert 'nothing was saved' in text and text.endswith(f'--resume {path}\n')


def test_an_interruption_that_a_library_took_for_an_error_is_one(capsys, monkeypatch):
    """While MMEngine writes the config it takes any exception for a wrong syntax."""

    def interrupted(*_, **__):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', interrupted)
    with pytest.raises(SystemExit) as stop, Session():
        print(Config(dict(a=1)).pretty_text)
    assert stop.value.code == 130
    assert capsys.readouterr().err == 'interrupted before anything was written\n'


def test_a_long_message_keeps_what_is_wrong_and_the_remedy(capsys):
    with pytest.raises(SystemExit), Session():
        raise ConfigError(f'a is wrong: {"x" * 5000}: give b')
    text = capsys.readouterr().err
    assert text.startswith('error: a is wrong') and text.endswith(': give b\n')
    assert len(text) < 1300


def test_an_interrupted_test_has_nothing_to_resume(tmp_path, capsys):
    save(tmp_path, 4)
    with pytest.raises(SystemExit), Session() as session:
        session.work_dir = str(tmp_path)
        signal.raise_signal(signal.SIGINT)
    assert capsys.readouterr().err == 'interrupted\n'
