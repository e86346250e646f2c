"""A run's folder: who works in it, and from which of its files a run goes on."""

import contextlib
import errno
import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator

from mmengine.logging import print_log

from ..errors import ConfigError
from .files import check_checkpoint

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = '.running'
NOTE = 'last_checkpoint'  # MMEngine's
# of file systems that are mounted without them: Lustre, NFS
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


def check_writable(folder: str) -> None:
    """Raise ``ConfigError`` unless files can be made in a folder, which is made."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b'0')
    except OSError as error:
        raise ConfigError(
            f'work dir {folder} cannot be written: {error.strerror}'
        ) from error


@contextlib.contextmanager
def alone(folder: str) -> Iterator[None]:
    """Keep other processes from training in a folder.

    The lock is the system's: that of a process which was killed is free at once.

    Raises:
        ConfigError: If another process trains there, naming it.
    """
    path = os.path.join(folder, LOCK)
    file = _lock(path, folder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
        file.close()


def _lock(path: str, folder: str):
    while True:
        file = open(path, 'a+')  # noqa: SIM115  (open for as long as the run)
        try:
            if fcntl:  # record locks: worker processes do not inherit them
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = file.read().strip() or 'another process'
            file.close()
            if error.errno in NO_LOCKS:
                print_log(
                    f'{folder}: its file system has no locks ({error.strerror}), so '
                    'that nothing keeps a second process from training there',
                    'current',
                    logging.WARNING,
                )
                return open(path, 'a+')  # noqa: SIM115
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise ConfigError(
                    f'work dir {folder} is in use: {owner} trains there; wait for it, '
                    'stop it, or give another --work-dir'
                ) from None
            raise ConfigError(f'{path} cannot be locked: {error.strerror}') from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                break
        file.close()  # its last owner removed it just now
    now = time.strftime('%Y-%m-%d %H:%M:%S')
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}, since {now}')
    file.flush()
    return file


def last_checkpoint(folder: str) -> str | None:
    """The file that ``last_checkpoint`` in a folder names, moved with it or not.

    None if there is no such file, or no such note: it may be older than the last file,
    or half written. An address is taken as it is.
    """
    try:
        with open(os.path.join(folder, NOTE)) as file:
            path = file.read().strip()
    except OSError:
        return None
    if '://' in path:  # CheckpointHook(out_dir='s3://...')
        return path
    moved = os.path.join(folder, os.path.basename(path))
    return next(filter(os.path.isfile, (moved, path)), None)


def check_resume(path: str, *, trust: bool = False) -> None:
    """Raise unless a run can go on from a checkpoint.

    Raises:
        ConfigError: If it is damaged, or holds weights only. Names the newest one in
            its folder that is whole.
    """
    key = '--resume: checkpoint'
    if '://' in path:
        return
    try:
        if not _is_of_a_run(check_checkpoint(path, key=key, trust=trust)):
            raise ConfigError(
                f'{key} {path} holds no optimizer and no place in training: nothing '
                f'can go on from it; load_from={path} starts anew from its weights'
            )
    except ConfigError as error:
        other = newest_whole(os.path.dirname(path) or '.', trust=trust)
        hint = f'; {other} is whole: --resume {other}' if other else ''
        raise ConfigError(f'{error}{hint}') from error


def find_resume(folder: str, *, trust: bool = False) -> str | None:
    """The checkpoint that ``--resume`` takes, or None if there is none at all.

    Raises:
        ConfigError: As :func:`check_resume` does.
    """
    path = last_checkpoint(folder)
    if path is None:
        path = newest_whole(folder, trust=trust)
        if path:
            print_log(f'--resume: no checkpoint is noted, {path} is there', 'current')
        return path
    check_resume(path, trust=trust)
    return path


def stamps(folder: str) -> dict[str, tuple[int, int]]:
    """Which checkpoints are in a folder, and the note of the last: told from later."""
    found = {}
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        path = os.path.join(folder, name)
        if os.path.isfile(path) and (name == NOTE or name.endswith('.pth')):
            stat = os.stat(path)
            found[path] = stat.st_mtime_ns, stat.st_ino
    return found


def find_own(
    folder: str, before: dict[str, tuple[int, int]], *, trust: bool = False
) -> str | None:
    """The checkpoint to go on from that a run itself has saved, or None.

    A run that starts anew in the folder of another finds the other's there.

    Args:
        folder (str): The run's.
        before (dict): :func:`stamps` of it when the run began.
        trust (bool): Whether checkpoints may run code. Defaults to False.

    Raises:
        ConfigError: As :func:`check_resume` does.
    """
    new = [path for path, stamp in stamps(folder).items() if before.get(path) != stamp]
    noted = os.path.join(folder, NOTE) in new and last_checkpoint(folder)
    if not noted:
        return newest_whole(folder, trust=trust, among=new)
    check_resume(noted, trust=trust)
    return noted


def newest(folder: str, *, trust: bool = False) -> str | None:
    """The checkpoint that a folder's last run left: the noted one, if there is one."""
    return last_checkpoint(folder) or newest_whole(folder, trust=trust)


def newest_whole(
    folder: str, *, trust: bool = False, among: Iterable[str] | None = None
) -> str | None:
    """The checkpoint of a run in a folder that is whole and has come farthest."""
    found = []
    for path in stamps(folder) if among is None else among:
        if os.path.basename(path) == NOTE:
            continue
        with contextlib.suppress(ConfigError):
            content = check_checkpoint(path, key='--resume', trust=trust)
            if _is_of_a_run(content):
                found.append((content['meta']['iter'], path))
    return max(found)[1] if found else None


def _is_of_a_run(content: dict) -> bool:
    meta = content.get('meta')
    place = isinstance(meta, dict) and {'epoch', 'iter'} <= meta.keys()
    return place and {'state_dict', 'optimizer', 'message_hub'} <= content.keys()
