"""Read the teacher's config and weights, and complain early."""

from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.logging import MMLogger
from mmengine.utils import is_installed
from torch import Tensor, nn

from ..errors import ConfigError
from .files import check_is_file, read_checkpoint
from .kinds import is_type


def load_model_config(config: str | dict) -> tuple[ConfigDict, str | None]:
    """The ``model`` part of a config, and the scope its types are looked up in.

    Of a config that distils itself, the student is taken.

    Args:
        config (str | dict): ``'package::path'``, a local file, or a dict.

    Returns:
        tuple[ConfigDict, str | None]: The model's config; its ``default_scope``, None
        for the current one.

    Raises:
        ConfigError: If the file is missing or has no model.
    """
    if isinstance(config, str):
        cfg = _read(config)
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
    model = ConfigDict(model.copy())
    if preprocessor is not None:  # MMPretrain keeps it on the top level
        model.setdefault('data_preprocessor', preprocessor)
    return model, cfg.get('default_scope')


def _read(path: str) -> Config:
    try:
        if '::' not in path:
            return Config.fromfile(find_file(path, key='teacher.config'))
        package = path.split('::')[0]
        if not is_installed(package):
            raise ConfigError(f'teacher.config {path!r}: {package} is not installed')
        return get_config(path)
    except ConfigError:
        raise
    except (FileNotFoundError, OSError, KeyError, ValueError, AssertionError) as error:
        raise ConfigError(f'teacher.config {path!r} cannot be read: {error}') from error


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


def load_weights(model: nn.Module, path: str, *, key: str, trust: bool = False) -> None:
    """Load a checkpoint that must cover the whole network.

    Args:
        model (nn.Module): Receives the weights.
        path (str): Path or URL. A ``distiller.*`` part in it is not needed.
        key (str): The config key, for messages.
        trust (bool): Whether the file may run code. Defaults to False.

    Raises:
        ConfigError: If it cannot be read, or lacks keys, or has other shapes.
    """
    if '://' not in path:
        path = find_file(path, key=key)
    option = 'teacher=dict(trust=True) (--trust of the tools)'
    checkpoint = read_checkpoint(path, key=key, trust=trust, option=option)
    state = checkpoint.get('state_dict', checkpoint)
    state = {name.removeprefix('module.'): value for name, value in state.items()}
    state = {name: v for name, v in state.items() if not name.startswith('distiller.')}
    own = model.state_dict()
    optional = ('num_batches_tracked', 'data_preprocessor.')
    missing = [n for n in own if n not in state and not any(o in n for o in optional)]
    other = [
        f'{n} {tuple(state[n].shape)} for {tuple(own[n].shape)}'
        for n in own
        if isinstance(state.get(n), Tensor) and state[n].shape != own[n].shape
    ]
    if missing or other:
        parts = []
        if missing:
            example = ', '.join(missing[:3])
            parts.append(
                f'{len(missing)} of {len(own)} tensors are missing ({example})'
            )
        if other:
            parts.append(f'{len(other)} have other shapes ({", ".join(other[:3])})')
        raise ConfigError(
            f'{key} {path!r} does not cover {type(model).__name__}: ' + '; '.join(parts)
        )
    unused = [n for n in state if n not in own]
    if unused:
        MMLogger.get_current_instance().warning(
            f'{key}: {len(unused)} tensors are not of {type(model).__name__}: '
            + ', '.join(unused[:5])
        )
    model.load_state_dict({n: v for n, v in state.items() if n in own}, strict=False)
