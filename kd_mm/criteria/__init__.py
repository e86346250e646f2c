"""Criteria: a pure function each, and a thin module that a config can name."""

from .attention import ATLoss, attention_loss, attention_map
from .base import Criterion
from .cwd import CWDLoss, cwd_loss
from .dist import DISTLoss, dist_loss
from .dkd import DKDLoss, dkd_loss
from .fgd import FGDLoss
from .kd import KDLoss, binary_kd_loss, kd_loss
from .mse import MSELoss, mse_loss
from .pkd import PKDLoss, pkd_loss, standardise
from .similarity import SPLoss, similarity_loss

__all__ = [
    'ATLoss',
    'CWDLoss',
    'Criterion',
    'DISTLoss',
    'DKDLoss',
    'FGDLoss',
    'KDLoss',
    'MSELoss',
    'PKDLoss',
    'SPLoss',
    'attention_loss',
    'attention_map',
    'binary_kd_loss',
    'cwd_loss',
    'dist_loss',
    'dkd_loss',
    'kd_loss',
    'mse_loss',
    'pkd_loss',
    'similarity_loss',
    'standardise',
]
