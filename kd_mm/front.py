"""The front door: two configs, or two networks, and nothing else to write."""

import contextlib
import copy
import os.path as osp
from collections.abc import Mapping
from os import PathLike, fspath
from typing import TypeAlias, overload

from mmengine.config import Config
from mmengine.hub import get_config
from torch import nn

from .auto import AUTO, TRAINED, check_method
from .distill import Distill
from .errors import ConfigError
from .options import checked
from .teacher import fetches
from .utils.cli import load_config
from .utils.kinds import is_type, listed, type_name
from .utils.loading import read_teacher
from .utils.work_dir import last_checkpoint

Source: TypeAlias = str | PathLike | Mapping | Config


@overload
def distil(
    student: nn.Module,
    teacher: nn.Module,
    *,
    method: str | dict = 'auto',
    teacher_checkpoint: str | PathLike | None = None,
) -> nn.Module: ...


@overload
def distil(
    student: str | PathLike | Config,
    teacher: Source,
    *,
    method: str | dict = 'auto',
    teacher_checkpoint: str | PathLike | None = None,
    student_checkpoint: str | PathLike | None = None,
) -> Config: ...


@checked
def distil(
    student: str | PathLike | Config | nn.Module,
    teacher: Source | nn.Module,
    *,
    method: str | dict = 'auto',
    teacher_checkpoint: str | PathLike | None = None,
    student_checkpoint: str | PathLike | None = None,
) -> Config | nn.Module:
    """Distil a teacher into a student, given as configs or as built networks.

    Two configs give a config, for ``Runner.from_cfg``: the student's, with its data
    and schedule, whose ``model`` is a :func:`kd_mm.Distill`. Its ``work_dir`` is
    another than the plain student's: ``_<method>`` is added to the name.

    Two networks give the distilled network, for a runner or a loop of your own. It is
    the student itself, with the weights that it has; the teacher is frozen.

    Args:
        student (str | PathLike | Config | nn.Module): The plain student: a file,
            ``'mmdet::...'``, a config that has been read, or a network.
        teacher (str | PathLike | dict | Config | nn.Module): The teacher, likewise.
        method (str | dict): ``links`` of :func:`kd_mm.Distill`: ``'auto'``, a method by
            name, or the links themselves. Defaults to 'auto', which for a student that
            starts from a checkpoint is ``'auto_trained'``.
        teacher_checkpoint (str | PathLike, optional): Path or URL of the teacher's
            weights. Defaults to None: ``load_from`` of its config, or the weights that
            a network has.
        student_checkpoint (str | PathLike, optional): Weights that the student starts
            from. Only with configs. Defaults to None: those of its config.

    Returns:
        Config | nn.Module: Of the kind that was given.

    Raises:
        ConfigError: If one is a config and the other a network, the student is
            distilled already, the teacher has no weights, or whatever
            :func:`kd_mm.Distill` refuses.

    Examples:
        >>> import kd_mm
        >>> pack = 'kd_mm::kd_cls/digits/'
        >>> cfg = kd_mm.distil(
        ...     pack + 'resnet8.py', pack + 'resnet20.py',
        ...     method='kd', teacher_checkpoint='resnet20.pth')
        >>> cfg.model.type, cfg.model.student.type, cfg.model.links, cfg.work_dir
        ('kd_mm.Distill', 'ImageClassifier', 'kd', './work_dirs/resnet8_kd')

        >>> def net(depth):
        ...     return dict(
        ...         type='mmpretrain.ImageClassifier',
        ...         data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
        ...         backbone=dict(type='kd_mm.ResNetCIFAR', depth=depth),
        ...         neck=dict(type='GlobalAveragePooling'),
        ...         head=dict(type='LinearClsHead', num_classes=10, in_channels=64))
        >>> from mmengine.registry import MODELS
        >>> model = kd_mm.distil(
        ...     MODELS.build(net(8)), MODELS.build(net(20)),
        ...     method=dict(logits=dict(
        ...         student='head.fc', teacher='head.fc',
        ...         criterion=dict(type='kd_mm.KDLoss', tau=4.0))))
        >>> type(model).__name__
        'DistilledImageClassifier'
    """
    if isinstance(student, nn.Module) and isinstance(teacher, nn.Module):
        if student_checkpoint is not None:
            raise ConfigError(
                'student_checkpoint: a network that is built has its weights; load '
                'them with mmengine.runner.load_checkpoint'
            )
        guide = dict(config=teacher, checkpoint=teacher_checkpoint)
        return Distill(student=student, teacher=guide, links=method)
    if isinstance(student, nn.Module) or isinstance(teacher, nn.Module):
        raise ConfigError(
            'student and teacher: one is a network and the other a config; give two '
            'configs or two networks'
        )
    cfg = student if isinstance(student, Config) else load_config(fspath(student))
    return distil_config(
        cfg,
        teacher,
        method=method,
        teacher_checkpoint=teacher_checkpoint,
        student_checkpoint=student_checkpoint,
    )


def distil_config(
    cfg: Config,
    teacher: Source,
    *,
    method: str | dict = 'auto',
    teacher_checkpoint: str | PathLike | None = None,
    student_checkpoint: str | PathLike | None = None,
) -> Config:
    """A plain config, distilled: see :func:`distil`. The one given is left as it is."""
    name = cfg.filename or 'student'
    model = cfg.get('model')
    if not type_name(model):
        raise ConfigError(f'{name} has no model: there is no student to distil')
    if is_type(model, 'kd_mm.Distill'):
        raise ConfigError(
            f'{name} is distilled already (model.type is kd_mm.Distill); give the '
            'plain student, or no --teacher and what differs: --cfg-options '
            'model.teacher.config=... model.teacher.checkpoint=... model.links=...'
        )
    if isinstance(method, str):
        check_method(method)
    config, weights = _teacher(teacher, teacher_checkpoint)
    distilled = copy.deepcopy(cfg)
    links = copy.deepcopy(method)
    if links == AUTO and (student_checkpoint is not None or cfg.get('load_from')):
        links = TRAINED
    distilled.model = dict(
        type='kd_mm.Distill',
        student=distilled.model,
        teacher=dict(config=config, checkpoint=weights),
        links=links,
    )
    if isinstance(config, dict) and isinstance(teacher, Config):
        _import_also(distilled, teacher)
    if student_checkpoint is not None:
        distilled.load_from = fspath(student_checkpoint)
    # not that of the student alone: its checkpoints bear the same names
    folder = cfg.get('work_dir') or f'./work_dirs/{_stem(cfg)}'
    label = links if isinstance(links, str) else 'distilled'
    distilled.work_dir = f'{folder.rstrip("/")}_{label}'
    return distilled


def _import_also(cfg: Config, teacher: Config) -> None:
    """What a teacher without a file needs imported, so that the config stands alone."""
    wanted = [c.get('custom_imports') or {} for c in (cfg, teacher)]
    modules = [name for one in wanted for name in listed(one.get('imports'))]
    if wanted[1]:
        cfg.custom_imports = dict(imports=list(dict.fromkeys(modules)))
        cfg.custom_imports.allow_failed_imports = all(
            one.get('allow_failed_imports', False) for one in wanted if one
        )


def _stem(cfg: Config) -> str:
    """What a config's work dir is called where nothing else says so."""
    if cfg.filename:
        return osp.splitext(osp.basename(cfg.filename))[0]
    return type_name(cfg.model).lower()


def _teacher(source: Source, checkpoint: str | PathLike | None) -> tuple:
    """The teacher's config, as it goes into the student's, and its weights."""
    config: str | dict
    if isinstance(source, str | PathLike):
        config = fspath(source)
        if config.endswith('.pth'):
            raise ConfigError(
                f'teacher {config}: the teacher is a config, and its weights are given '
                'beside it (--teacher-checkpoint)'
            )
        cfg = read_teacher(config)
    else:
        cfg = source if isinstance(source, Config) else Config(dict(source))
        keys = ('default_scope', 'data_preprocessor', 'model')
        whole = cfg.to_dict()
        config = whole if 'type' in cfg else {k: whole[k] for k in keys if k in whole}
    weights = checkpoint or cfg.get('load_from')
    if weights is None and fetches(config):
        return config, None
    if weights is None:
        name = cfg.filename or 'teacher'
        raise ConfigError(
            f'{name}: the teacher has no weights; give them with --teacher-checkpoint '
            f'(teacher_checkpoint in Python): {_known_weights(source, cfg)}'
        )
    return config, fspath(weights)


def _known_weights(source: Source, cfg: Config) -> str:
    """Where the weights of a teacher seem to be."""
    if isinstance(source, str) and '::' in source:
        with contextlib.suppress(Exception):  # of those who keep the lists
            url = get_config(source, pretrained=True).model_path
            return f'{source.partition("::")[0]} lists {url}'
    if cfg.filename:
        folder = cfg.get('work_dir') or f'work_dirs/{_stem(cfg)}'
        if found := last_checkpoint(folder):
            return f'{found} is there'
    return 'a file or a URL'
