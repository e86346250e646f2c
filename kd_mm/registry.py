"""Registries of ``kd_mm``: children of MMEngine's, so that ``type='kd_mm.X'`` works.

MMEngine imports this module when it meets the scope ``kd_mm`` in a config, and the
``locations`` when something is looked up; neither ``custom_imports`` nor another
``default_scope`` is needed.
"""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_CONSTRUCTORS
from mmengine.registry import Registry

# Stages, criteria and the `Distill` factory itself: everything a link is made of.
MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='kd_mm',
    locations=[
        'kd_mm.distill',
        'kd_mm.stages',
        'kd_mm.criteria',
        'kd_mm.backbones',
    ],
)
DATASETS = Registry(
    'dataset', parent=MMENGINE_DATASETS, scope='kd_mm', locations=['kd_mm.datasets']
)
FUNCTIONS = Registry(
    'function', parent=MMENGINE_FUNCTIONS, scope='kd_mm', locations=['kd_mm.datasets']
)
HOOKS = Registry(
    'hook', parent=MMENGINE_HOOKS, scope='kd_mm', locations=['kd_mm.hooks']
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_CONSTRUCTORS,
    scope='kd_mm',
    locations=['kd_mm.optimizers'],
)
