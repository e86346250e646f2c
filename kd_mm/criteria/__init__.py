"""Criteria: a pure function each, and a thin module that a config can name."""

from .attention import ATLoss, attention_loss, attention_map
from .base import Criterion
from .cwd import CWDLoss, cwd_loss
from .fgd import FGDLoss
from .kd import KDLoss, binary_kd_loss, kd_loss
from .mse import MSELoss, mse_loss
from .pkd import PKDLoss, pkd_loss, standardise

__all__ = [
    'ATLoss',
    'CWDLoss',
    'Criterion',
    'FGDLoss',
    'KDLoss',
    'MSELoss',
    'PKDLoss',
    'attention_loss',
    'attention_map',
    'binary_kd_loss',
    'cwd_loss',
    'kd_loss',
    'mse_loss',
    'pkd_loss',
    'standardise',
]
