"""Knowledge distillation for MMDetection and MMPretrain.

Importing it is light: the names below are loaded when they are first used. Configs name
parts as strings, ``type='kd_mm.ChannelAlign'``, and need no import at all.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mmengine.config.utils import MODULE2PACKAGE

from .version import __version__

if TYPE_CHECKING:
    from .criteria import Criterion
    from .distill import Distill
    from .errors import ConfigError
    from .front import distil
    from .pair import FeaturePair
    from .stages import Stage
    from .taps import Taps
    from .utils.cli import load_config
    from .utils.distilled import build_distilled
    from .utils.export import export_student, plain_student

__all__ = [
    'ConfigError',
    'Criterion',
    'Distill',
    'FeaturePair',
    'Stage',
    'Taps',
    '__version__',
    'build_distilled',
    'distil',
    'export_student',
    'load_config',
    'plain_student',
]

# Lets `_base_ = 'kd_mm::kd/...'` and `teacher=dict(config='kd_mm::kd/...')` find the
# packaged configs: MMEngine keeps a closed table of the packages it knows.
MODULE2PACKAGE.setdefault('kd_mm', 'kd_mm')

_HOMES = dict(
    ConfigError='errors',
    Criterion='criteria',
    Distill='distill',
    FeaturePair='pair',
    Stage='stages',
    Taps='taps',
    build_distilled='utils.distilled',
    distil='front',
    export_student='utils.export',
    load_config='utils.cli',
    plain_student='utils.export',
)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(importlib.import_module(f'.{_HOMES[name]}', __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
