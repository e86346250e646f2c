"""From a training checkpoint to a file that holds the student and nothing else."""

import contextlib
import io
import os.path as osp

import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from ..errors import ConfigError
from ..version import __version__
from .config_text import (
    read_config_text,
    refuse_remote_code,
    registered_types_only,
)
from .files import check_is_file, read_checkpoint
from .kinds import default_scope, is_type, mentions, type_name
from .overrides import RUNNER_KEYS
from .saving import write_whole
from .states import DISTILLER, in_brackets, state_of

KEPT_META = ('dataset_meta', 'epoch', 'iter', 'seed', 'experiment_name', 'time')


def is_distilled(model: object) -> bool:
    """Whether a model config is the ``Distill`` factory's."""
    return is_type(model, 'kd_mm.Distill')


def plain_student(cfg: Config) -> Config:
    """The config of the student alone, for evaluation and deployment.

    Args:
        cfg (Config): The config of a run. It is returned as it is when it is not
            a distilled one.

    Returns:
        Config: A new config whose ``model`` is the student's; hooks of ``kd_mm``, the
        distiller's optimiser and unused top-level snippets of links and teacher are
        gone.

    Examples:
        >>> import kd_mm
        >>> cfg = kd_mm.load_config('kd_mm::kd_cls/digits/resnet20_resnet8_sokd.py')
        >>> kd_mm.plain_student(cfg).model.type
        'ImageClassifier'
    """
    if not is_distilled(cfg.get('model')):
        return cfg
    values = cfg.to_dict()
    model = values['model']
    if 'student' not in model:
        raise ConfigError('model is a kd_mm.Distill without a student')
    values['model'] = model['student']
    if model.get('data_preprocessor') is not None:  # given beside the student
        values['model'].setdefault('data_preprocessor', model['data_preprocessor'])
    if values.get('custom_hooks'):
        values['custom_hooks'] = [
            hook for hook in values['custom_hooks'] if not mentions(hook, 'kd_mm')
        ]
    values.pop('unlabelled_dataloader', None)
    without_own_optimizer(values.get('optim_wrapper'))
    parts = _parts(model)
    for key in [k for k in values if k not in RUNNER_KEYS]:
        if mentions(values[key], 'kd_mm') or values[key] in parts:
            del values[key]
    # A config from a checkpoint names a temporary file that is gone.
    name = cfg.filename if cfg.filename and osp.isfile(cfg.filename) else None
    return Config(values, filename=name)


def _parts(model):
    """The teachers, which a config may hold under names of their own as well."""
    teacher = model.get('teacher')
    pending, found = [teacher], []
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            found.append(part)
            inner = part.values() if part is teacher else ()  # several by name
            pending += [part.get('config'), part.get('model'), *inner]
    return found


def without_own_optimizer(wrapper):
    """Drop the optimiser of the distiller, which a plain student does not have."""
    constructor = dict(type=(wrapper or {}).get('constructor'))
    if is_type(constructor, 'kd_mm.DistillerOptimWrapperConstructor'):
        del wrapper['constructor']
        wrapper['paramwise_cfg'].pop('distiller', None)


def export_student(
    path: str,
    out: str,
    *,
    weights: str = 'saved',
    config: str | None = None,
    half: bool = False,
    force: bool = False,
    trust: bool = False,
) -> dict:
    """Write the student of a training checkpoint to a file of its own.

    The file holds ``state_dict`` and ``meta``: ``dataset_meta``, the place in
    training, and ``cfg``, the text of the plain student's config. Optimizer,
    schedulers, message hub, EMA copy and everything of the distiller are left out. A
    checkpoint of a model that was trained without a teacher is trimmed the same way.

    With MMEngine's ``EMAHook`` a checkpoint's ``state_dict`` *is* the average and
    ``ema_state_dict`` holds the raw weights, so that the first can be used as it is.

    Args:
        path (str): Checkpoint of a run.
        out (str): File to write. Written to a temporary name in the same folder
            first, so it is whole or not there.
        weights (str): ``'saved'`` takes ``state_dict``, as evaluation does: the
            average when the run kept one, else the raw weights. ``'ema'`` does the
            same and insists on an average; ``'raw'`` takes the weights that the
            optimizer worked on. Defaults to 'saved'.
        config (str, optional): Config of the run or of the plain student. Defaults
            to the one in the checkpoint, which is read as data: it may name types of
            the toolboxes only.
        half (bool): Store floating-point tensors in half precision; they load into
            the fp32 model as they are. Defaults to False.
        force (bool): Replace an existing ``out``. Defaults to False.
        trust (bool): Whether the checkpoint, and the config in it, may run code.
            Defaults to False.

    Returns:
        dict: ``size_before`` and ``size_after`` in bytes, ``tensors`` and
        ``parameters`` of the student, ``dropped`` tensors, ``weights`` (which were
        taken: 'ema' or 'raw') and ``model`` (the student's type).

    Raises:
        ConfigError: When a file is missing or in the way, the average asked for is
            not there, or the weights do not load strictly into the plain student.

    Examples:
        >>> import os, tempfile, torch
        >>> import kd_mm
        >>> cfg = kd_mm.load_config('kd_mm::kd_cls/digits/resnet20_resnet8_sokd.py')
        >>> cfg.model.teacher.update(checkpoint=None, allow_random=True)
        >>> state = kd_mm.build_distilled(cfg, cfg.filename).state_dict()
        >>> folder = tempfile.mkdtemp()
        >>> run, out = (os.path.join(folder, name) for name in ('run.pth', 'out.pth'))
        >>> torch.save(dict(state_dict=state, meta=dict(cfg=cfg.pretty_text)), run)
        >>> done = kd_mm.export_student(run, out)
        >>> done['model'], done['tensors'] + done['dropped'] == len(state)
        ('ImageClassifier', True)
    """
    if weights not in ('saved', 'ema', 'raw'):
        raise ConfigError(f"weights must be 'saved', 'ema' or 'raw', got {weights!r}")
    check_paths(path, out, force=force)
    checkpoint = read_checkpoint(path, key='checkpoint', trust=trust)
    state, taken = _pick(checkpoint, weights, path)
    student = {k: v for k, v in state.items() if not k.startswith(DISTILLER)}
    meta = checkpoint.get('meta') or {}
    cfg = plain_student(_read_config(meta, config, path, trust))
    # a config inside a file is the file's, not the user's
    foreign = config is None and not trust
    if foreign:
        refuse_remote_code(cfg.model, where=f'the config in {path}')
    with registered_types_only() if foreign else contextlib.nullcontext():
        model = build_plain(cfg)
    check_strict(model, student, path)
    if half:
        student = {
            k: v.half() if v.is_floating_point() else v for k, v in student.items()
        }

    kept = {key: meta[key] for key in KEPT_META if key in meta}
    kept |= {'cfg': cfg.pretty_text, 'kd_mm_version': __version__, 'weights': taken}
    save_atomically({'meta': kept, 'state_dict': student}, out)
    return {
        'size_before': osp.getsize(path),
        'size_after': osp.getsize(out),
        'tensors': len(student),
        'parameters': sum(p.numel() for p in model.parameters()),
        'dropped': len(state) - len(student),
        'weights': taken,
        'model': type_name(cfg.model),
    }


def check_paths(path, out, *, force):
    """Raise unless ``path`` can be read and ``out`` be written."""
    check_is_file(path, key='checkpoint')
    if osp.isdir(out):
        raise ConfigError(f'{out} is a folder; name the file to write')
    folder = osp.dirname(out) or '.'
    if not osp.isdir(folder):
        raise ConfigError(f'the folder {folder} does not exist')
    if osp.exists(out) and osp.samefile(path, out):
        raise ConfigError(f'{out} is the checkpoint itself; name another file')
    if osp.exists(out) and not force:
        raise ConfigError(f'{out} exists already (--force replaces it)')


def _pick(checkpoint, weights, path):
    """The state dict asked for, and whether it is the 'ema' or the 'raw' one."""
    swapped = checkpoint.get('ema_state_dict')
    if weights == 'ema' and swapped is None:
        raise ConfigError(f'{path} keeps no average: its run had no EMAHook')
    state = state_of(checkpoint, where=f'checkpoint {path}')
    if weights != 'raw' or swapped is None:
        return state, 'raw' if swapped is None else 'ema'
    prefix = 'module.'
    raw = {k[len(prefix) :]: v for k, v in swapped.items() if k.startswith(prefix)}
    # What the copy does not have was never averaged.
    return {**state, **raw}, 'raw'


def _read_config(meta, config, path, trust):
    if config is not None:
        from .cli import load_config

        return load_config(config)
    text = meta.get('cfg')
    if not text:
        raise ConfigError(f'{path} has no config inside; give --config')
    where = f'the config in {path}'
    if isinstance(text, str) and not trust:
        return read_config_text(text, where=where)
    try:
        return Config.fromstring(text, '.py') if isinstance(text, str) else Config(text)
    except Exception as error:
        raise ConfigError(f'{where} cannot be read: {error}') from error


def build_plain(cfg):
    """The plain student, built as MMEngine's runner would, with random weights."""
    model = cfg.model.copy()
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with default_scope(cfg):
        try:
            built = MODELS.build(model)
        except (KeyError, TypeError, ImportError) as error:
            own = (
                '; code of your own (custom_imports) is not run from a checkpoint: '
                "--config FILE gives the run's config, --trust runs what is inside"
            )
            raise ConfigError(
                f'the plain student {type_name(model)} cannot be built: {error}'
                + own * bool(cfg.get('custom_imports'))
            ) from error
    if hasattr(built, 'distiller'):  # a factory of the user's around ours
        raise ConfigError(
            f'{type_name(model)} builds a distilled model; give the config of the '
            'plain student (--config)'
        )
    return built


def check_strict(model, state, path):
    """Raise unless ``state`` is all of the model and nothing else."""
    # Not `strict=True`: models that convert old keys while loading do it here too,
    # and the lists say more than the exception.
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ConfigError(f'{path} does not fit its student: {error}') from error
    missing, unexpected = result.missing_keys, result.unexpected_keys
    if missing or unexpected:
        raise ConfigError(
            f'{path} does not fit the plain student: {len(missing)} missing '
            f'keys{in_brackets(missing)}, {len(unexpected)} unexpected keys'
            f'{in_brackets(unexpected)}'
        )


def save_atomically(content, out):
    """Write a checkpoint that is whole or not there."""
    with io.BytesIO() as file:
        torch.save(content, file)
        write_whole(file.getbuffer(), out)
