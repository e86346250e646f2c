"""A run's folder: whole checkpoints, one process, and where a run goes on from."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from mmengine.fileio import LocalBackend

from kd_mm.errors import ConfigError
from kd_mm.utils.saving import NotWrittenError, older_kept, write_whole
from kd_mm.utils.work_dir import (
    LOCK,
    alone,
    check_resume,
    check_writable,
    find_resume,
    last_checkpoint,
)


def save(folder, epoch, *, note=True, **more):
    """A checkpoint of a run, and the note that names it."""
    folder.mkdir(exist_ok=True)
    path = folder / f'epoch_{epoch}.pth'
    content = dict(meta=dict(epoch=epoch, iter=4 * epoch), message_hub={}, optimizer={})
    torch.save(dict(content, state_dict={'a': torch.ones(100)}, **more), path)
    if note:
        (folder / 'last_checkpoint').write_text(str(path))
    return str(path)


def truncate(path):
    os.truncate(path, os.path.getsize(path) // 2)


def test_resume_takes_what_is_noted(tmp_path):
    assert find_resume(str(tmp_path / 'none')) is None
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    save(tmp_path, 3, note=False)
    assert find_resume(str(tmp_path)) == path


def test_a_truncated_checkpoint_is_named_and_the_newest_whole_one_offered(tmp_path):
    save(tmp_path, 1, note=False)
    older = save(tmp_path, 9, note=False)
    truncate(path := save(tmp_path, 10))
    torch.save(dict(state_dict={'a': torch.ones(1)}), tmp_path / 'exported.pth')
    for resume in (lambda: find_resume(str(tmp_path)), lambda: check_resume(path)):
        with pytest.raises(ConfigError, match='epoch_10.pth is truncated') as refused:
            resume()
        assert str(refused.value).endswith(f'; {older} is whole: --resume {older}')
    os.unlink(older)
    os.unlink(tmp_path / 'epoch_1.pth')
    with pytest.raises(ConfigError, match='is truncated') as refused:
        find_resume(str(tmp_path))
    assert 'is whole' not in str(refused.value)


def test_a_note_that_names_no_file_is_as_good_as_none(tmp_path):
    path = save(tmp_path, 1)
    for note in ('', path[:-5], 'deleted.pth'):
        (tmp_path / 'last_checkpoint').write_text(note)
        assert last_checkpoint(str(tmp_path)) is None
        assert find_resume(str(tmp_path)) == path


def test_an_address_that_is_noted_is_taken(tmp_path):
    save(tmp_path, 1)
    (tmp_path / 'last_checkpoint').write_text('s3://bucket/run/epoch_7.pth')
    assert find_resume(str(tmp_path)) == 's3://bucket/run/epoch_7.pth'


def test_a_file_system_without_locks_trains_with_a_warning(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, 'Function not implemented')

    said: list[str] = []
    monkeypatch.setattr('fcntl.lockf', refuse)
    monkeypatch.setattr(
        'kd_mm.utils.work_dir.print_log', lambda text, *_: said.append(text)
    )
    with alone(str(tmp_path)):
        pass
    assert len(said) == 1 and 'has no locks (Function not implemented)' in said[0]


def test_a_work_dir_that_was_moved_resumes(tmp_path):
    save(tmp_path / 'a', 1)
    (tmp_path / 'a').rename(tmp_path / 'b')
    assert find_resume(str(tmp_path / 'b')) == str(tmp_path / 'b' / 'epoch_1.pth')


def test_resume_refuses_weights_without_a_place_in_training(tmp_path):
    torch.save(dict(state_dict={'a': torch.ones(1)}), path := tmp_path / 'a.pth')
    with pytest.raises(ConfigError, match='no optimizer .*load_from'):
        check_resume(str(path))


def test_a_failed_write_leaves_the_older_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / 'a.pth'
    write_whole(b'old', str(path))
    os.symlink('/dev/full', tmp_path / '.a.pth.part')
    with pytest.raises(NotWrittenError, match=r'a.pth could not .*No space .*MB'):
        write_whole(b'new' * 100, str(path))
    assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['a.pth']
    write_whole(b'new', str(path))
    assert path.read_bytes() == b'new' and os.listdir(tmp_path) == ['a.pth']


def test_older_files_are_deleted_after_the_new_one_is_whole(tmp_path):
    backend, old, new = LocalBackend(), tmp_path / 'old.pth', tmp_path / 'new.pth'
    old.write_bytes(b'old')
    with older_kept():
        backend.remove(str(old))
        backend.put(b'new', str(new))
        assert old.exists()
    assert not old.exists() and new.read_bytes() == b'new'
    with older_kept():  # the best one under the same name
        backend.remove(str(new))
        backend.put(b'newer', str(new))
    assert new.read_bytes() == b'newer'
    with pytest.raises(KeyboardInterrupt), older_kept():
        backend.remove(str(new))
        raise KeyboardInterrupt
    assert new.exists()
    backend.remove(str(new))
    assert not new.exists()


HOLD = """
import sys, time
from kd_mm.utils.work_dir import alone
with alone(sys.argv[1]):
    print('here', flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_who_trains_and_a_dead_one_holds_nothing(tmp_path):
    command = [sys.executable, '-W', 'ignore', '-c', HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'here\n'
    with (
        pytest.raises(ConfigError, match=f'in use: process {process.pid} on '),
        alone(str(tmp_path)),
    ):
        pass
    assert (tmp_path / LOCK).exists()  # the refusal has not taken it away
    process.send_signal(signal.SIGKILL)
    process.communicate()
    limit = time.time() + 10
    while time.time() < limit:
        with alone(str(tmp_path)):
            assert f'process {os.getpid()} ' in (tmp_path / LOCK).read_text()
            break
    assert not (tmp_path / LOCK).exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    check_writable(str(tmp_path / 'a' / 'b'))
    assert os.listdir(tmp_path / 'a' / 'b') == []
    for folder in ('/proc/kd_mm', '/sys/kd_mm', '/sys'):
        with pytest.raises(ConfigError, match=f'work dir {folder} cannot be written'):
            check_writable(folder)
