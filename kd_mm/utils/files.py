"""Read files of weights that others made, without running what is in them."""

import argparse
import contextlib
import os
import pathlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn
from torch.torch_version import TorchVersion
from typing_extensions import TypeIs  # comes with PyTorch

from ..errors import ConfigError, nearest
from .states import as_mmengine_reads

TRUST = '--trust'  # the tools' option
_torch_load = torch.load  # both as they are before we stand in for them
_fetch = CheckpointLoader.load_checkpoint


def read_checkpoint(
    path: str | os.PathLike,
    *,
    key: str,
    trust: bool = False,
    option: str = TRUST,
    map_location: Any = 'cpu',
    logger: Any = 'current',
) -> dict:
    """What is in a checkpoint, whoever made it.

    Tensors and the plain types that checkpoints of OpenMMLab, Timm and CRD hold beside
    them are made; any other type is refused, since a pickle can name any function as
    a type and have it called.

    Args:
        path (str | PathLike): A local file, or what MMEngine can fetch: ``http(s)://``,
            ``torchvision://``, ``open-mmlab://``, ``s3://`` and so on.
        key (str): Where the path was given, for messages: 'teacher.checkpoint'.
        trust (bool): Whether the file may make any type, which means run any code.
            Defaults to False.
        option (str): What sets ``trust``, for messages. Defaults to ``'--trust'``.
        map_location (str or Callable): As in ``torch.load``. Defaults to 'cpu'.
        logger (str or Logger): As in MMEngine. Defaults to 'current'.

    Returns:
        dict: A state dict, or a dict with one inside.

    Raises:
        ConfigError: If there is no such file, it is no checkpoint or damaged, or it
            holds a type that is not allowed.
    """
    path = os.fspath(path)
    local = '://' not in path
    if local:
        check_is_file(path, key=key)
    name = f'{key} {path}'

    def load(file: Any, map_location: Any = map_location, **_: Any) -> Any:
        what = f'{name} (kept as {file})' if _is_path(file) and not local else name
        return _unpickle(
            file, what, trust=trust, option=option, map_location=map_location
        )

    if local:
        content = load(os.path.expanduser(path))
    else:
        with _instead_of_torch_load(load):
            try:
                content = _fetch(path, map_location=map_location, logger=logger)
            except ConfigError:
                raise
            except Exception as error:  # each scheme has its own
                raise ConfigError(
                    f'{name} cannot be fetched: {_text(error)}'
                ) from error
    _check_content(content, name)
    return content


def check_is_file(path: str | os.PathLike, *, key: str) -> None:
    """Raise ``ConfigError`` unless a local path is a file."""
    given, path = path, os.path.expanduser(path)
    if os.path.isfile(path):
        return
    if os.path.isdir(path):
        raise ConfigError(f'{key} {given} is a folder, not a file')
    folder = os.path.dirname(path) or '.'
    if not os.path.isdir(folder):
        raise ConfigError(f'{key} {given} does not exist, nor does its folder')
    names = os.listdir(folder)
    hint = f'; {nearest(os.path.basename(path), names)}' if names else ''
    raise ConfigError(f'{key} {given} does not exist{hint}')


def check_checkpoint(
    path: str, *, key: str, trust: bool = False, option: str = TRUST
) -> dict:
    """Like :func:`read_checkpoint`, for a look: tensors of local files stay on disk.

    The tensors are maps of the file: read what is needed and let go of them before
    anything writes to it.
    """
    if '://' in path:
        return {}
    check_is_file(path, key=key)
    name = f'{key} {path}'
    content = _unpickle(
        os.path.expanduser(path), name, trust=trust, option=option, mmap=True
    )
    _check_content(content, name)
    return content


@contextlib.contextmanager
def through_mmengine(*, trust: bool, keys: Mapping[str, str]) -> Iterator[None]:
    """Let all that MMEngine loads go through :func:`read_checkpoint`.

    ``Runner.load_checkpoint``, ``Runner.resume``, ``init_cfg`` of pretrained parts and
    the backbones that load for themselves all call ``CheckpointLoader``.

    Args:
        trust (bool): Whether the files may run code.
        keys (Mapping[str, str]): Where a path was given, for messages.
    """
    before = CheckpointLoader.load_checkpoint

    def load_checkpoint(filename, map_location=None, logger='current'):
        content = read_checkpoint(
            str(filename),
            key=keys.get(str(filename), 'checkpoint'),
            trust=trust,
            map_location=map_location,
            logger=logger,
        )
        meta = content.get('meta')
        if isinstance(meta, dict) and not trust:
            meta.pop('config', None)  # old files: `Runner.resume` would run its text
        return as_mmengine_reads(content)

    CheckpointLoader.load_checkpoint = staticmethod(load_checkpoint)
    try:
        yield
    finally:
        CheckpointLoader.load_checkpoint = before


@contextlib.contextmanager
def _instead_of_torch_load(load: Callable) -> Iterator[None]:
    """MMEngine's ways to fetch a file all end with ``torch.load``."""
    torch.load = load
    try:
        yield
    finally:
        torch.load = _torch_load


def _history_method(owner: type, name: str) -> Callable:
    """Stands for ``getattr``, which pickles need for the methods of a class."""
    if owner is HistoryBuffer and name in ('min', 'max', 'mean', 'current'):
        return getattr(HistoryBuffer, name)
    raise ValueError(f'GLOBAL builtins.getattr was asked for {name!r} of {owner}')


def _plain_dict(*_: Any) -> dict:
    """Stands for ``defaultdict``, into which PyTorch puts no items."""
    return {}


def _allowed() -> list:
    """What checkpoints hold beside tensors, and nothing that runs what it is given.

    MMEngine's message hub: histories of logs with NumPy arrays inside. Metainfo of
    data sets: arrays, configs. Training options of research code: argparse, paths.
    """
    core = np._core if hasattr(np, '_core') else np.core
    numpy = {'_reconstruct': core.multiarray._reconstruct}
    numpy['scalar'] = core.multiarray.scalar
    paths: list[type] = [pathlib.PosixPath, pathlib.WindowsPath]
    paths += [pathlib.PurePosixPath, pathlib.PureWindowsPath]
    return [
        *(HistoryBuffer, ConfigDict, argparse.Namespace, TorchVersion),
        *(dict, list, int, float, slice),
        *((kind, f'pathlib.{kind.__name__}') for kind in paths),
        *((kind, f'pathlib._local.{kind.__name__}') for kind in paths),
        (_history_method, 'builtins.getattr'),
        (_plain_dict, 'collections.defaultdict'),
        # NumPy 2 renamed its core; files of either version are read by either
        *((f, f'numpy.core.multiarray.{name}') for name, f in numpy.items()),
        *((f, f'numpy._core.multiarray.{name}') for name, f in numpy.items()),
        np.ndarray,
        np.dtype,
        *{type(np.dtype(code)) for code in '?bhilqBHILQefdgFDGUSMm'},
    ]


def _unpickle(
    file: str | BinaryIO,
    name: str,
    *,
    trust: bool,
    option: str,
    map_location: Any = 'cpu',
    mmap: bool = False,
) -> Any:
    """``torch.load`` with one line for whatever a strange file leads to."""
    if what := _no_checkpoint(file):
        raise ConfigError(f'{name} {what}')
    safe = contextlib.nullcontext()
    if torch.__version__ >= (2, 6):  # without, histories of logs need `trust`
        safe = torch.serialization.safe_globals(_allowed())
    mmap = mmap and _start(file, 2) == b'PK'
    try:
        with safe, warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='.*TorchScript archive')
            return _torch_load(
                file, map_location=map_location, weights_only=not trust, mmap=mmap
            )
    except Exception as error:  # a damaged file can lead to any
        raise ConfigError(f'{name} {_why(file, error, option)}') from error


def _why(file: str | BinaryIO, error: Exception, option: str) -> str:
    text = str(error)
    # as PyTorch says it: now, in NEWOBJ, before 2.5
    kind = re.search(r"(?:GLOBAL |got <class '|Unsupported class )([^\s']+)", text)
    if kind and not _ends_with(file, kind[1]):
        whole = ' (a whole model: save its state_dict())' * _is_module(kind[1])
        return (
            f'holds {kind[1]}{whole}, which is no type of a checkpoint: reading it can '
            f'run code of whoever made the file; {option} allows that'
        )
    if isinstance(error, PermissionError):
        return f'cannot be read: {error.strerror}'
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return f'cannot be read: {_text(error)}'
    for words, what in (('TorchScript', 'a TorchScript archive'), ('.tar', 'a tar')):
        if f'{words} ' in text and 'weights_only' in text:
            return f'is {what}, which can hold code; {option} allows to read it'
    size = f', {os.path.getsize(file)} bytes' if _is_path(file) else ''
    return f'is truncated or damaged{size} ({type(error).__name__}: {_text(error)})'


def _is_module(name: str) -> bool:
    """Whether a dotted name is one of a network, as far as it is imported."""
    module, _, kind = name.rpartition('.')
    found = getattr(sys.modules.get(module), kind, None)
    return isinstance(found, type) and issubclass(found, nn.Module)


def _no_checkpoint(file: str | BinaryIO) -> str | None:
    """What a file is instead, by how it starts."""
    try:
        start = _start(file, 512)
    except OSError as error:
        return f'cannot be read: {error.strerror}'
    if not start:
        return 'is empty'
    if start.startswith((b'PK', b'\x80')):
        return None
    if start.startswith(b'version https://git-lfs'):
        return 'is a pointer of Git LFS, not the file: git lfs pull fetches it'
    if start.lstrip().startswith(b'<'):
        return (
            f'is a web page, not a checkpoint (a login?): it starts with {_peek(start)}'
        )
    if start[8:10] == b'{"':
        return (
            'is a safetensors file: torch.save(dict(state_dict=safetensors.torch.'
            'load_file(PATH)), NEW) makes a checkpoint of it'
        )
    if start.startswith(b'\x89HDF'):
        return 'is an HDF5 file, of Keras perhaps, not a checkpoint of PyTorch'
    if all(byte >= 32 or byte in b'\t\r\n\f' for byte in start):
        return f'is a text, not a checkpoint: it starts with {_peek(start)}'
    return None


def _start(file: str | BinaryIO, count: int) -> bytes:
    if not _is_path(file):
        start = file.read(count)
        file.seek(0)
        return start
    with open(file, 'rb') as opened:
        return opened.read(count)


def _ends_with(file: str | BinaryIO, name: str) -> bool:
    """Whether a file breaks off in the name of a type, which reads like another."""
    last = name.rpartition('.')[2].encode()
    with open(file, 'rb') if _is_path(file) else file as opened:
        opened.seek(-min(len(last) + 1, opened.seek(0, os.SEEK_END)), os.SEEK_END)
        return last in opened.read()


def _is_path(file: object) -> TypeIs[str | os.PathLike]:
    return isinstance(file, str | os.PathLike)


def _peek(start: bytes) -> str:
    return repr(' '.join(start.decode(errors='replace').split())[:40])


def _text(error: Exception) -> str:
    """What an exception says, without PyTorch's advice around it."""
    text = str(error).partition('WeightsUnpickler error:')[2] or str(error)
    text = text.partition('Check the documentation')[0]
    text = text.partition(' This is an internal miniz error')[0]
    return ' '.join(text.split())[:200] or type(error).__name__


def _check_content(content: Any, name: str) -> None:
    """Raise unless it is a dict with tensors in it."""
    if isinstance(content, nn.Module):
        raise ConfigError(
            f'{name} is a whole model ({type(content).__name__}), not a checkpoint: '
            'save its state_dict()'
        )
    if not isinstance(content, Mapping):
        raise ConfigError(f'{name} holds a {type(content).__name__}, not a checkpoint')
    if not _has_tensors(content):
        keys = ', '.join(map(str, list(content)[:5])) or 'nothing'
        raise ConfigError(f'{name} holds no tensors; it holds {keys}')


def _has_tensors(content: Mapping, depth: int = 2) -> bool:
    return any(
        isinstance(value, Tensor)
        or (depth and isinstance(value, Mapping) and _has_tensors(value, depth - 1))
        for value in content.values()
    )
