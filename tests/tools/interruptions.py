"""What an interruption costs: python tests/tools/interruptions.py [WORDS ...]

A toy detector is distilled by tools/train.py, keeping one checkpoint and one best one.
It is stopped at ten points by three signals and by a full disk at three, and resumed.
The table says how many steps had to be repeated, and whether the resumed run ended
where an uninterrupted one does, bit for bit. WORDS choose rows by their names.
"""

import builtins
import contextlib
import errno
import importlib.util
import os
import signal
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EPOCHS, STEPS = 3, 4  # of the run, of an epoch
FULL = 'disk full'
STOPS = ('SIGINT', 'SIGTERM', 'SIGKILL', FULL)
# What happens to which file, or which step begins; the count of that event.
POINTS = {
    'before the first step': ('step 0', 1),
    'in the first epoch': ('step 2', 1),
    'first checkpoint half written': ('write .epoch_1.pth.part', 1),
    'first checkpoint not renamed yet': ('rename epoch_1.pth', 1),
    'first checkpoint not noted yet': ('open last_checkpoint', 1),
    'best checkpoint half written': ('write .best', 1),
    'second checkpoint half written': ('write .epoch_2.pth.part', 1),
    'note of the second half written': ('write last_checkpoint', 3),
    'older checkpoint not deleted yet': ('delete epoch_1.pth', 1),
    'in the last epoch': ('step 10', 1),
}
FULL_POINTS = [point for point in POINTS if 'half' in point and 'best' not in point]


@dataclass
class Row:
    """What became of a run that was stopped, and of its continuation."""

    point: str
    stop: str
    code: int  # exit code; of a signal that ended the process: its negative number
    done: int  # steps taken before the stop
    resumed: int  # step that the continuation began with
    broken: list[str]  # checkpoints that cannot be read after the stop
    same: bool  # whether the continuation ended like an uninterrupted run
    line: str  # what the run said last

    @property
    def lost(self) -> int:
        return self.done - self.resumed


class HalfWriter:
    """A file whose first ``write`` is stopped in the middle."""

    def __init__(self, file, stop):
        self.file, self.stop = file, stop

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content):
        half = len(content) // 2
        self.file.write(content[:half])
        self.file.flush()
        self.stop()
        return self.file.write(content[half:])


class Trap:
    """Stops this process at one event."""

    def __init__(self, event: str, count: int, stop: str):
        self.event, self.left, self.kind = event, count, stop

    def set(self):
        """Put itself between the process and its files and steps."""
        from mmengine.runner import EpochBasedTrainLoop

        opens, replace, remove = builtins.open, os.replace, os.remove
        run_iter = EpochBasedTrainLoop.run_iter

        def trapped_open(path, mode='r', *args, **kwargs):
            name = os.path.basename(path) if isinstance(path, str) else ''
            if 'w' in mode and self.at(f'open {name}'):
                self.stop()
            file = opens(path, mode, *args, **kwargs)
            if 'w' in mode and self.at(f'write {name}'):
                return HalfWriter(file, self.stop)
            return file

        def trapped_replace(source, target, **kwargs):
            if self.at(f'rename {os.path.basename(target)}'):
                self.stop()
            replace(source, target, **kwargs)

        def trapped_remove(path, **kwargs):
            if self.at(f'delete {os.path.basename(path)}'):
                self.stop()
            remove(path, **kwargs)

        def trapped_iter(loop, idx, batch):
            if self.at(f'step {loop.runner.iter}'):
                self.stop()
            run_iter(loop, idx, batch)

        builtins.open, os.replace, os.remove = (
            trapped_open,
            trapped_replace,
            trapped_remove,
        )
        EpochBasedTrainLoop.run_iter = trapped_iter

    def at(self, event):
        if not (event == self.event or event.startswith(f'{self.event}_')):
            return False
        self.left -= 1
        return self.left == 0

    def stop(self):
        if self.kind == FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.kill(os.getpid(), getattr(signal, self.kind))


def count_steps(path):
    """Note the number of every step in a file, so that it outlives the process."""
    from mmengine.runner import EpochBasedTrainLoop

    run_iter = EpochBasedTrainLoop.run_iter

    def counted(loop, idx, batch):
        number = loop.runner.iter
        run_iter(loop, idx, batch)
        os.write(steps, f'{number}\n'.encode())

    steps = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    EpochBasedTrainLoop.run_iter = counted


def train(arguments, *, log: Path, trap=None) -> tuple[int, list[int], str]:
    """Call tools/train.py in a process of its own: exit code, steps, last line."""
    steps = log.with_suffix('.steps')
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        code = 1
        try:
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1), os.dup2(file, 2)
            sys.stdout = sys.stderr = os.fdopen(2, 'w', closefd=False)
            sys.argv = ['train.py', *map(str, arguments)]
            count_steps(steps)
            if trap:
                trap.set()
            path = ROOT / 'tools' / 'train.py'
            spec = importlib.util.spec_from_file_location('train', path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            module.main()
            code = 0
        except SystemExit as error:
            code = error.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    return code, [int(n) for n in steps.read_text().split()], lines[-1] if lines else ''


def write_config(folder: Path) -> Path:
    """A distilled toy run, with its data, in a folder."""
    from toy_run import toy_config, write_data

    write_data(folder)
    cfg = toy_config(folder, distilled=True, epochs=EPOCHS)
    cfg.train_cfg.val_interval = 1
    cfg.default_hooks.checkpoint.update(max_keep_ckpts=1, save_best='coco/bbox_mAP')
    cfg.dump(folder / 'config.py')
    return folder / 'config.py'


def final_state(work: Path) -> dict:
    from kd_mm.utils.files import read_checkpoint

    return read_checkpoint(str(work / f'epoch_{EPOCHS}.pth'), key='x')['state_dict']


def unreadable(work: Path) -> list[str]:
    """Names of checkpoints in a folder that are not whole."""
    from kd_mm.errors import ConfigError
    from kd_mm.utils.files import check_checkpoint

    found = []
    for path in sorted(work.glob('*.pth')):
        try:
            check_checkpoint(str(path), key='x')
        except ConfigError:
            found.append(path.name)
    return found


def measure(folder: Path, point: str, stop: str, config: Path, whole: dict) -> Row:
    """Stop one run, resume it, and compare its end with ``whole``."""
    name = f'{point}-{stop}'.replace(' ', '_')
    work, log = folder / name, folder / f'{name}.log'
    arguments = [config, '--work-dir', work]
    code, steps, line = train(arguments, log=log, trap=Trap(*POINTS[point], stop))
    broken = unreadable(work)
    again = folder / f'{name}-again.log'
    resumed, more, _ = train([*arguments, '--resume'], log=again)
    same = False
    if resumed == 0:
        end = final_state(work)
        same = all(end[key].equal(value) for key, value in whole.items())
    first = more[0] if more else EPOCHS * STEPS
    return Row(point, stop, code, len(steps), first, broken, same, line)


def all_stops() -> list[tuple[str, str]]:
    """Every point with every way to be stopped there."""
    return [
        (point, stop)
        for point in POINTS
        for stop in STOPS
        if stop != FULL or point in FULL_POINTS
    ]


def prepare(folder: Path) -> tuple[Path, dict]:
    """The config of a run, and how it ends when nothing stops it."""
    # imported once, for all the processes to come
    import torch
    from mmdet.utils import register_all_modules

    import kd_mm.distill
    import kd_mm.utils.session  # noqa: F401

    register_all_modules(init_default_scope=False)
    torch.set_num_threads(1)
    config = write_config(folder)
    code, _, line = train(
        [config, '--work-dir', folder / 'whole'], log=folder / 'whole.log'
    )
    assert code == 0, line
    return config, final_state(folder / 'whole')


def main() -> int:
    sys.path[:0] = [str(ROOT), str(ROOT / 'tests'), str(ROOT / 'tests' / 'tools')]
    os.environ['OMP_NUM_THREADS'] = '1'
    form = '{:<34} {:<10} {:>4} {:>5} {:>8} {:>5} {:<7} {}'
    print(
        form.format('stopped', 'by', 'exit', 'steps', 'goes on', 'lost', 'the end', '')
    )
    bad = 0
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        words = sys.argv[1:]
        config, whole = prepare(folder)
        for point, stop in all_stops():
            if not all(word in f'{point} {stop}' for word in words):
                continue
            row = measure(folder, point, stop, config, whole)
            end = 'same' if row.same else 'OTHER'
            broken = f'unreadable: {", ".join(row.broken)}' if row.broken else ''
            facts = (row.code, row.done, row.resumed, row.lost, end, broken)
            print(form.format(row.point, row.stop, *facts), flush=True)
            bad += bool(row.broken) or not row.same or row.lost > STEPS
    return int(bad > 0)


if __name__ == '__main__':
    sys.exit(main())
