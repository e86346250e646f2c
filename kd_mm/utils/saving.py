"""Checkpoints that are whole or not there, whatever stops their writing."""

import contextlib
import os
import shutil
from collections.abc import Iterator

from mmengine.fileio import LocalBackend

from ..errors import ConfigError


class NotWrittenError(ConfigError):
    """A file that could not be written; what was there before is still there."""


def write_whole(content: bytes | memoryview, path: str) -> None:
    """Write beside and rename, so that ``path`` is the old file or the whole new one.

    Args:
        content (bytes or memoryview): What to write.
        path (str): File to write; its folder is made.

    Raises:
        NotWrittenError: If the disk is full or refuses.
    """
    folder, name = os.path.split(os.path.abspath(path))
    part = os.path.join(folder, f'.{name}.part')
    try:
        os.makedirs(folder, exist_ok=True)
        with open(part, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a power cut may keep the name and no content
        os.replace(part, path)
    except BaseException as error:  # an interruption, too
        with contextlib.suppress(OSError):
            os.unlink(part)
        if isinstance(error, OSError):
            raise NotWrittenError(_not_written(path, len(content), error)) from error
        raise


def _not_written(path: str, size: int, error: OSError) -> str:
    text = f'{path} could not be written: {error.strerror}'
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(os.path.dirname(path) or '.').free
        text += f' ({size / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free)'
    return text


@contextlib.contextmanager
def older_kept() -> Iterator[None]:
    """While MMEngine saves a checkpoint: write whole files, delete old ones last.

    Its ``CheckpointHook`` deletes what ``max_keep_ckpts`` and ``save_best`` no longer
    keep, writes the new file in place, then notes its name: stopped in between,
    nothing is left. Files that are not local are left to their backends.
    """
    names = ('put', 'remove', 'rmtree')
    original = {name: getattr(LocalBackend, name) for name in names}
    written: set[str] = set()
    late: list = []

    def put(self, obj, filepath):
        write_whole(obj, filepath)
        written.add(os.path.abspath(filepath))

    def later(name):
        return lambda self, path: late.append((original[name], self, path))

    LocalBackend.put = put
    LocalBackend.remove, LocalBackend.rmtree = later('remove'), later('rmtree')
    try:
        yield
    except OSError as error:  # the note of its name, for one
        raise NotWrittenError(f'a checkpoint could not be written: {error}') from error
    finally:
        for name in names:
            setattr(LocalBackend, name, original[name])
    for delete, backend, path in late:
        if os.path.abspath(path) not in written:  # the new one may bear its name
            delete(backend, path)
