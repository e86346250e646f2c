"""Distilled models for the tools that look at them."""

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from torch import nn

from ..errors import ConfigError
from .export import is_distilled
from .files import check_checkpoint
from .kinds import default_scope
from .loading import check_fits
from .randomness import kept_random


def check_distilled(cfg: Config, path: str) -> None:
    """Raise ``ConfigError`` when a config has no teacher."""
    model = cfg.get('model') or {}
    if not is_distilled(model):
        raise ConfigError(
            f'{path} does not distil: model.type is {model.get("type")!r}, not '
            "'kd_mm.Distill'"
        )


def build_distilled(
    cfg: Config, path: str, *, student: str | None = None, trust: bool = False
) -> nn.Module:
    """Build the distilled model of a config on the device at hand.

    Args:
        cfg (Config): The config.
        path (str): Its file, for messages.
        student (str, optional): Checkpoint of the student, plain or of a run; without
            it the student starts as the config says, with a fixed seed.
            Defaults to None.
        trust (bool): Whether that checkpoint may run code. Defaults to False.

    Raises:
        ConfigError: If the config does not distil, or the checkpoint does not fit.

    Examples:
        >>> import kd_mm
        >>> cfg = kd_mm.load_config('kd_mm::kd_cls/digits/resnet20_resnet8_sokd.py')
        >>> cfg.model.teacher.update(checkpoint=None, allow_random=True)  # untrained
        >>> model = kd_mm.build_distilled(cfg, cfg.filename)
        >>> list(model.distiller.links)
        ['map']
    """
    check_distilled(cfg, path)
    if student:
        check_checkpoint(student, key='--student', trust=trust)
    model_cfg = cfg.model.copy()
    if cfg.get('data_preprocessor') is not None:
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    with default_scope(cfg):
        model = MODELS.build(model_cfg)
    if student:
        check_fits(model, student, key='--student', trust=trust)
        load_checkpoint(model, student, map_location='cpu')
    else:
        with kept_random(get_device()):
            torch.manual_seed(0)
            model.init_weights()
    return model.to(get_device())
