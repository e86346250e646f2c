"""Read the teacher's config and weights, and complain early."""

import copy
import os
import os.path as osp
from importlib.util import find_spec
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from torch import nn

from ..errors import ConfigError, nearest
from ..toolboxes import TOOLBOXES
from .files import check_is_file, read_checkpoint
from .kinds import is_type, type_text
from .states import DISTILLER, compare, in_brackets, some, state_of, unlike
from .wrappers import unwrapped


def load_model_config(
    config: str | PathLike | dict,
) -> tuple[ConfigDict, str | None]:
    """The ``model`` part of a config, and the scope its types are looked up in.

    Of a config that distils itself, the student is taken.

    Args:
        config (str | PathLike | dict): ``'package::path'``, a local file, or a dict.

    Returns:
        tuple[ConfigDict, str | None]: The model's config; its ``default_scope``, else
        the package that the file or the model's type is of, None for the current one.

    Raises:
        ConfigError: If the file is missing or has no model.
    """
    if isinstance(config, str | PathLike):
        cfg = read_teacher(fspath(config))
    elif isinstance(config, dict):
        cfg = ConfigDict(config)
        cfg = ConfigDict(model=cfg) if 'type' in cfg else cfg
    else:
        raise ConfigError(f'teacher.config is a path or a dict, not {config!r}')
    model = cfg.get('model')
    if not model or 'type' not in model:
        raise ConfigError(f'teacher.config {config!r} has no model')
    preprocessor = cfg.get('data_preprocessor')
    while is_type(model, 'kd_mm.Distill'):
        preprocessor = model.get('data_preprocessor', preprocessor)
        model = model.student
    model = ConfigDict(copy.deepcopy(model))  # building may change it
    if preprocessor is not None:  # MMPretrain keeps it on the top level
        model.setdefault('data_preprocessor', preprocessor)
    scope = cfg.get('default_scope')
    if not scope:
        home = config.partition('::') if isinstance(config, str) else ('', '', '')
        package = home[0] if home[1] else type_text(model).partition('.')[0]
        scope = package if package in TOOLBOXES else None
    return model, scope


def read_teacher(path: str) -> Config:
    """The teacher's whole config in a file or in an installed package.

    Raises:
        ConfigError: If it is missing or cannot be read.
    """
    try:
        if '::' in path:
            return Config.fromfile(find_config(path, key='teacher.config'))
        return Config.fromfile(find_file(path, key='teacher.config'))
    except ConfigError:
        raise
    except (FileNotFoundError, OSError, KeyError, ValueError, AssertionError) as error:
        raise ConfigError(f'teacher.config {path!r} cannot be read: {error}') from error


def find_config(path: str, *, key: str = 'config') -> str:
    """Path of a config file, packaged ones (``mmdet::...``) included.

    Args:
        path (str): A file, or ``package::path`` of a packaged config.
        key (str): Where it was given, for the message. Defaults to 'config'.

    Raises:
        ConfigError: When there is no such file.
    """
    package, scope, rest = path.partition('::')
    if scope:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise ConfigError(f'{key} {path}: package {package!r} is not installed')
        configs = osp.join(osp.dirname(spec.origin), '.mim', 'configs')
        if not osp.isdir(configs):
            raise ConfigError(
                f'{key} {path}: {package} carries no configs, there is no {configs}; '
                f'`pip install` puts them there, in a checkout `pip install -e .`'
            )
        path = osp.join(configs, rest)
    if osp.isdir(path):
        raise ConfigError(f'{key} {path} is a folder, not a file')
    if not osp.isfile(path):
        folder = osp.dirname(path) or '.'
        hint = f'the folder {folder} does not exist either'
        if osp.isdir(folder):
            names = [n for n in os.listdir(folder) if n.endswith(('.py', '.yml'))]
            hint = nearest(osp.basename(path), names) if names else 'it has no configs'
        raise ConfigError(f'{key} {path} does not exist ({hint})')
    return path


def find_file(path: str, *, key: str) -> str:
    """A local file, relative to the current folder, the project's or the package.

    Args:
        path (str): The path as it stands in the config.
        key (str): The config key, for the message.

    Raises:
        ConfigError: If there is no such file.
    """
    package = Path(__file__).resolve().parents[1]
    # An installed package carries the configs and their weights in `.mim`.
    for folder in (Path(), package.parent, package / '.mim'):
        candidate = folder / Path(path).expanduser()
        if candidate.is_file():
            return str(candidate)
    check_is_file(path, key=key)
    return path


def load_weights(
    model: nn.Module,
    path: str | PathLike,
    *,
    key: str,
    trust: bool = False,
    prefix: str = '',
) -> None:
    """Load a checkpoint that must cover the whole network.

    Args:
        model (nn.Module): Receives the weights.
        path (str | PathLike): Path or URL. A ``distiller.*`` part in it is not needed.
        key (str): The config key, for messages.
        trust (bool): Whether the file may run code. Defaults to False.
        prefix (str): What the model's keys begin with; a file in which none does has
            them without. Defaults to ''.

    Raises:
        ConfigError: If it cannot be read, or lacks keys, or has other shapes.
    """
    path = fspath(path)
    if '://' not in path:
        path = find_file(path, key=key)
    option = 'teacher=dict(trust=True) (--trust of the tools)'
    checkpoint = read_checkpoint(path, key=key, trust=trust, option=option)
    state = state_of(checkpoint, where=f'{key} {path!r}')
    state = {name: v for name, v in state.items() if not name.startswith('distiller.')}
    if not any(name.startswith(prefix) for name in state):
        state = {f'{prefix}{name}': value for name, value in state.items()}
    own = model.state_dict()
    missing, unused, shapes = compare(own, state)
    fitting = {name: value for name, value in state.items() if name in own}
    if _needed(missing) or shapes:
        missing, unused, shapes = _converted(model, state)
    else:
        model.load_state_dict(fitting, strict=False)
    missing = _needed(missing)
    parts = []
    if missing:
        parts.append(
            f'{len(missing)} of {len(own)} tensors are missing ({some(missing)})'
        )
    if shapes:
        parts.append(f'{len(shapes)} have other shapes ({some(shapes.values())})')
    where = f'{key} {path!r} does not cover {type(model).__name__}'
    if parts:
        raise ConfigError(f'{where}: {"; ".join(parts)}')
    if unused:
        MMLogger.get_current_instance().warning(
            f'{key}: {len(unused)} tensors are not of {type(model).__name__}: '
            + some(unused, 5)
        )
    if lost := unlike(model.state_dict(), fitting):
        raise ConfigError(
            f'{where}: {len(lost)} tensors are in it but did not arrive '
            f'({some(lost)}): the model renames or changes what it loads'
        )


def _needed(names: list[str]) -> list[str]:
    """Without what a network does as well without."""
    optional = ('num_batches_tracked', 'data_preprocessor.')
    return [name for name in names if not any(o in name for o in optional)]


def _converted(
    model: nn.Module, state: dict[str, Any]
) -> tuple[list[str], list[str], dict[str, str]]:
    """Load what does not fit by name and shape, and compare as :func:`compare` does.

    A network's own hooks may make it fit: vision transformers resize their position
    embedding, detectors rename the keys of older versions. Buffers that they take out
    of the file (the indices of a window) the network has made itself.
    """
    plain = compare(model.state_dict(), state)
    reports: list[Any] = []
    handle = model.register_load_state_dict_post_hook(
        lambda _, report: reports.append(copy.deepcopy(report))
    )
    try:
        model.load_state_dict(state, strict=False)
        failure = ''
    except Exception as error:  # noqa: BLE001  (hooks fail on files they are not for)
        failure = str(error) or type(error).__name__
    finally:
        handle.remove()
    if not reports:  # a hook failed on the way
        return plain
    made = {name for name, _ in model.named_buffers()} & state.keys()
    missing = [name for name in reports[0].missing_keys if name not in made]
    named = {n: text for n, text in plain[2].items() if f' {n}: ' in failure}
    shapes = (named or plain[2] or {'': failure}) if failure else {}
    return missing, reports[0].unexpected_keys, shapes


def check_fits(
    model: nn.Module, path: str, *, key: str = 'checkpoint', trust: bool = False
) -> list[str]:
    """Raise when a checkpoint is of another model than ``model``.

    MMEngine loads non-strictly: an evaluation with the wrong config or checkpoint
    would go on with random weights and a log full of warnings.

    Args:
        model (nn.Module): The model to be loaded.
        path (str): A local file or URL.
        key (str): Where it was given, for messages. Defaults to 'checkpoint'.
        trust (bool): Whether the file may run code. Defaults to False.

    Returns:
        list[str]: Tensors that are missing, or have another shape: with both.

    Raises:
        ConfigError: When it cannot be read, or over a tenth of the model's tensors is
            missing in the checkpoint or has another shape there. Less is left to
            MMEngine, which logs it: old checkpoints lack a few buffers.
    """
    checkpoint = read_checkpoint(path, key=key, trust=trust)
    state = state_of(checkpoint, where=f'{key} {path}')
    whole = unwrapped(model).state_dict()
    # a plain student's checkpoint fits a distilled model
    own = {key: v for key, v in whole.items() if not key.startswith(DISTILLER)}
    missing, _, shapes = compare(own, state)
    if len(missing) + len(shapes) > 0.1 * len(own):
        raise ConfigError(
            f'{key} {path} is of another model than the config: of {len(own)} '
            f'tensors {len(missing)} are missing{in_brackets(missing)} and '
            f'{len(shapes)} have another shape{in_brackets(shapes.values())}'
        )
    return [*missing, *shapes.values()]
