"""One call of a tool: how it fails, how it is interrupted, what it leaves behind."""

import contextlib
import errno
import functools
import logging
import os
import os.path as osp
import shlex
import shutil
import signal
import sys
import time
import urllib.error
from pathlib import Path

import torch
from mmengine.hooks import CheckpointHook, Hook

from ..errors import ConfigError
from .files import through_mmengine
from .origin import blame_config
from .saving import NotWrittenError, older_kept
from .work_dir import alone, check_writable, find_own, last_checkpoint, stamps

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
LONGEST = 1200  # characters of a message
GRACE = 30  # seconds that other ranks leave rank 0 to tell what is wrong
CHILD = getattr(signal, 'SIGCHLD', None)  # not on Windows


class _Started(Hook):
    """Tells the session that everything is built and the loop begins."""

    priority = 'LOWEST'  # other hooks may refuse before the first step

    def __init__(self, session):
        self.session = session

    # not `before_train`: MMDetection counts classes at the beginning of an epoch
    def before_train_epoch(self, runner):
        self.session.started = True

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.session.started = True  # of a loop without epochs

    def before_test(self, runner):
        self.session.started = True


class Session:
    """Context of a tool's run: a user's mistake becomes one line and exit code 2.

    Until the loop starts, missing files, unknown names and wrong arguments in the
    config are the user's to mend and get one line. Whatever else happens keeps its
    traceback. Folders that this call made are removed again. An interruption
    (Ctrl-C, SIGTERM) says which checkpoint can be resumed and exits with 130 or 143.

    What MMEngine reads meanwhile is read without running code, see :mod:`.files`, and
    the checkpoints it writes are whole or not there, see :mod:`.saving`.

    Args:
        trust (bool): Whether files that are read may run code. Defaults to False.
    """

    def __init__(self, *, trust=False):
        self.keys = {}  # where the path of a file was given, for messages
        self._trust = trust
        self._stack = contextlib.ExitStack()
        self.work_dir = None
        self.cfg = None
        self._trains = False
        self._found: dict = {}  # checkpoints that were there before
        self.started = False
        self._owned = {}  # folder -> its nearest parent that was there before
        self._signal = signal.SIGINT
        self._before: dict = {}
        self._saving = False
        self._pending = False

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        if CHILD:
            self._before[CHILD] = signal.getsignal(CHILD)
        self._raises = logging.raiseExceptions
        logging.raiseExceptions = False  # a full disk is said once, not per line
        self._stack.enter_context(through_mmengine(trust=self._trust, keys=self.keys))
        return self

    def build(self, cfg, *, trains=False):
        """Build the runner of ``cfg``.

        Args:
            cfg (Config): A config with a ``work_dir``.
            trains (bool): Whether the runner will train: no other process may then
                train in the same folder. Defaults to False.

        Returns:
            Runner: The runner, not started.

        Raises:
            ConfigError: If the work dir cannot be written or is in use.
        """
        from . import cli

        self.work_dir, self.cfg, self._trains = cfg.work_dir, cfg, trains
        if _rank(cfg.launcher) == 0:  # the folder would be no news if another made it
            owned = _missing(cfg.work_dir)
            check_writable(cfg.work_dir)
            if trains:
                self._stack.enter_context(alone(cfg.work_dir))
            self._owned |= owned  # from here on nobody else's
        self._found = stamps(cfg.work_dir)
        cli.prepare_launcher(cfg)
        runner = cli.build_runner(cfg)
        runner.register_hook(_Started(self))
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook):
                for event in (
                    'after_train_iter',
                    'after_train_epoch',
                    'after_val_epoch',
                ):
                    setattr(hook, event, self._unbroken(getattr(hook, event)))
        return runner

    def folder(self, path):
        """Make a folder for results, which goes again if nothing comes into it.

        Args:
            path (str | Path): The folder; parents are made, too.

        Returns:
            Path: The same.
        """
        self._owned |= _missing(path)
        os.makedirs(path, exist_ok=True)
        return Path(path)

    def _unbroken(self, save):
        """``save``, with an interruption put off until it is through.

        A checkpoint that is being written is worth a moment; older ones are kept.
        """

        @functools.wraps(save)
        def saving(*args, **kwargs):
            self._saving = True
            try:
                with older_kept():
                    save(*args, **kwargs)
            finally:
                self._saving = False
            if self._pending:
                raise KeyboardInterrupt

        return saving

    def __exit__(self, kind, error, trace):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._stack.close()
        logging.raiseExceptions = self._raises
        if error is None:
            _leave_process_group()
            return
        if not self.started and _rank() == 0:
            self._leave_nothing()
        if _is_interruption(error):
            self._say(self._interrupted())
            raise SystemExit(128 + self._signal) from None
        line = one_line(error, started=self.started, cfg=self.cfg)
        if line is None:
            return
        line = shortened(line)
        trained = self.started and self._trains
        if self.work_dir and (trained or isinstance(error, NotWrittenError)):
            line += f'; {self._resumable()}'
        if _local_rank():
            # torchrun ends the others as soon as one has failed. Rank 0 meets the same
            # mistake and tells; if this process still lives then, it was alone with it.
            time.sleep(GRACE)
            print(f'error: rank {_rank()}: {line}', file=sys.stderr, flush=True)
        self._say(f'error: {line}')
        raise SystemExit(2) from None

    def _on_signal(self, number, frame):
        self._signal = number
        # A signal to the whole group ends the loaders' processes too; PyTorch would
        # raise for each wherever this one is by then, in what is said at the end, too.
        if CHILD:
            signal.signal(CHILD, signal.SIG_DFL)
        if self._saving and not self._pending:  # a second Ctrl-C does not wait
            self._pending = True
            return
        raise KeyboardInterrupt

    def _say(self, line):
        # Every process of a node meets the same mistake: one of them speaks.
        if not _local_rank():
            sys.stdout.flush()
            print(line, file=sys.stderr, flush=True)

    def _leave_nothing(self):
        """Remove folders that this call made, if only a failed start is in them."""
        for path, existing in self._owned.items():
            is_work_dir = self.work_dir and path == osp.abspath(self.work_dir)
            left = ('.log', '.json', '.py') if is_work_dir else ()
            files = [name for _, _, names in os.walk(path) for name in names]
            if not osp.isdir(path) or not all(name.endswith(left) for name in files):
                continue
            shutil.rmtree(path, ignore_errors=True)
            parent = osp.dirname(path)
            while parent != existing and osp.isdir(parent) and not os.listdir(parent):
                os.rmdir(parent)
                parent = osp.dirname(parent)

    def _interrupted(self):
        how = 'interrupted' if self._signal == signal.SIGINT else 'stopped by SIGTERM'
        if self.work_dir is None:
            return f'{how} before anything was written'
        if not self._trains:
            return how
        return f'{how}; {self._resumable()}'

    def _resumable(self):
        assert self.work_dir is not None
        try:
            last = find_own(self.work_dir, self._found, trust=self._trust)
        except ConfigError as error:
            return str(error)
        before = ''
        if last is None:
            before = f'nothing was saved in {self.work_dir} yet'
            cfg = self.cfg or {}
            last = cfg.get('load_from') if cfg.get('resume') else None
        if last is None:
            return f'{before}, nothing to resume'
        # what is noted may be of another run, or of none
        noted = last == last_checkpoint(self.work_dir)
        option = ['--resume'] if noted else ['--resume', last]
        can = f'{before}; {last} can be resumed' if before else f'{last} can be resumed'
        if int(os.environ.get('WORLD_SIZE', 1)) > 1:
            return f'{can}: the same command with {shlex.join(option)}'
        return f'{can}: {shlex.join([*_without_resume(sys.orig_argv), *option])}'


def _missing(path):
    """A folder that is not there, and its nearest parent that is; else nothing."""
    path = existing = osp.abspath(path)
    while not osp.lexists(existing):
        existing = osp.dirname(existing)
    return {} if path == existing else {path: existing}


def _leave_process_group():
    dist = torch.distributed
    if not (dist.is_available() and dist.is_initialized()):
        return
    if dist.get_backend() == 'gloo':
        # A worker thread of gloo frees the tensors of the last collective. Doing so
        # needs the GIL; if Python is shutting down by then, the process aborts.
        dist.barrier()
        time.sleep(0.1)
    dist.destroy_process_group()


def _is_interruption(error):
    """Whether it is one, or what others made of it: MMEngine's bare ``except`` do."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False


def shortened(line):
    """A line that can be read: without the middle of what some libraries dump.

    What is wrong stands at its beginning, and what to do about it at its end.
    """
    if len(line) <= LONGEST:
        return line
    return f'{line[: LONGEST // 2]} [...] {line[-LONGEST // 2 :]}'


def one_line(error, *, started, cfg=None):
    """The line for an exception that is the user's to mend, or None for any other.

    Args:
        error (BaseException): What was raised.
        started (bool): Whether the loop had started; from then on only a
            ``ConfigError`` is taken for the user's mistake.
        cfg (Config, optional): What is being built, to name the key in it.

    Returns:
        str | None: The message, without line breaks.
    """
    text = ' '.join(str(error).split())
    if isinstance(error, ConfigError):
        return text
    if isinstance(error, OSError) and error.errno in FULL:
        name = error.filename or 'a file of the run'
        return f'{name} could not be written: {error.strerror}'
    if started:
        return None
    if isinstance(error, urllib.error.URLError | ConnectionError):
        return f'a download failed: {text}'
    if isinstance(error, OSError) and error.__class__ is not OSError:
        # FileNotFoundError, PermissionError, ...; MMEngine raises them without errno
        return f'{error.filename}: {error.strerror}' if error.errno else text
    if isinstance(error, ImportError) and text.startswith('Failed to import'):
        return f'config: {text}'  # a class that a new-style config names
    if 'KD_MM_TRACEBACK' in os.environ:
        return None
    line = blame_config(error, cfg)
    return line and f'{line} (KD_MM_TRACEBACK=1 shows where)'


def _local_rank():
    return int(os.environ.get('LOCAL_RANK', 0))


def _rank(launcher='pytorch'):
    """The global rank, from what the launcher sets before MMEngine starts."""
    names = dict(slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')
    return int(os.environ.get(names.get(launcher, 'RANK'), 0))


def _without_resume(argv):
    """``argv`` without ``--resume`` and its value."""
    kept, skip = [], False
    for value in argv:
        if value == '--resume':
            skip = True
        elif skip and not value.startswith('-'):
            skip = False
        elif not value.startswith('--resume='):
            skip = False
            kept.append(value)
    return kept
