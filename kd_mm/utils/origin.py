"""Which part of a config an exception comes from."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from types import FrameType, TracebackType

PACKAGES = ('kd_mm', 'mmengine', 'mmcv', 'mmdet', 'mmpretrain')


def blame_config(error, cfg):
    """One line for what a toolbox refused to build, naming the key of the config.

    Args:
        error (BaseException): What was raised, with its traceback.
        cfg (Config, optional): The whole config.

    Returns:
        str | None: The message; None where the mistake may be ours, that is where the
        innermost frame of any of the packages is one of ``kd_mm``.
    """
    built, owner = None, None
    frames = list(_frames(error.__traceback__))
    for frame in frames:
        package = frame.f_globals.get('__name__', '').partition('.')[0]
        if package in PACKAGES:
            owner = package
        built = _config_of(frame) or built
    if owner in (None, 'kd_mm'):
        return None
    text = ' '.join(str(error).split())
    if isinstance(error, KeyError) and 'is not in the' in text:
        text = text.strip('\'"').partition('. Please check')[0]
    else:
        text = f'{type(error).__name__}: {text}'
    if broken := _broken_import(frames):
        return f'{broken}: {text}{_too_new()}'
    if built is None or cfg is None:
        return f'config: {text}'
    kind = built.get('type')
    kind = f' ({getattr(kind, "__name__", kind)})' if kind else ''
    return f'{find_node(cfg, built) or "config"}{kind}: {text}'


def _broken_import(frames: Iterable[FrameType]) -> str:
    """Which module of a toolbox does not import here; '' where none was under way."""
    names = [
        frame.f_globals.get('__name__', '')
        for frame in frames
        if frame.f_code.co_name == '<module>'
    ]
    own = [name for name in names if name.partition('.')[0] in PACKAGES[1:]]
    return f'{own[-1]} cannot be imported' if own else ''


def _too_new() -> str:
    """What is known to break the toolboxes' imports."""
    try:
        found = version('transformers')
    except PackageNotFoundError:
        return ''
    if int(found.partition('.')[0]) < 5:
        return ''
    return (
        f'; transformers {found} is installed, and MMPretrain knows no newer one than '
        "4: pip install 'transformers<5', or uninstall it"
    )


def _config_of(frame: FrameType) -> dict | None:
    """What a frame of MMEngine builds, if it does."""
    code, seen = frame.f_code, frame.f_locals
    module = frame.f_globals.get('__name__', '')
    if code.co_name == 'build_from_cfg':
        return seen.get('cfg')
    if not (module == 'mmengine.runner.runner' and code.co_name.startswith('build_')):
        return None
    given = [seen.get(name) for name in code.co_varnames[: code.co_argcount]]
    return next((value for value in given if isinstance(value, dict)), None)


def _frames(trace: TracebackType | None):
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def find_node(root, node):
    """Dotted path of a dict in a config, as ``--cfg-options`` writes it.

    What was built may have gained keys on the way.

    Args:
        root (dict): The config.
        node (dict): What to look for.

    Returns:
        str | None: The path; None if it is not there.
    """
    for path, found in _walk(root, ()):
        if found and all(node.get(key) == v for key, v in found.items()):
            return '.'.join(path)
    return None


def _walk(value, path):
    if isinstance(value, dict) or hasattr(value, 'items'):
        if path:
            yield path, value
        for key, item in value.items():
            yield from _walk(item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _walk(item, (*path, str(index)))
