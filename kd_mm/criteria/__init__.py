"""Criteria: a pure function each, and a thin module that a config can name."""

from .anchors import AnchorCriterion
from .attention import ATLoss, attention_loss, attention_map
from .base import Criterion
from .boxes import BoxL1Loss, BoxLoss, LDLoss, box_terms, ld_terms
from .cosine import (
    CosineLoss,
    PatchSimilarityLoss,
    cosine_loss,
    patch_similarity_loss,
)
from .crd import CRDLoss, nce_loss
from .cwd import CWDLoss, cwd_loss
from .dist import DISTLoss, dist_loss
from .dkd import DKDLoss, dkd_loss
from .fgd import FGDLoss
from .hcl import HCLLoss, hcl_loss
from .head import HeadLoss, confidence
from .kd import KDLoss, binary_kd_loss, kd_loss, z_scores
from .mse import MSELoss, mse_loss
from .ofd import OFDLoss, partial_l2_loss
from .pkd import PKDLoss, pkd_loss, standardise
from .qfl import QFLLoss, qfl_terms
from .similarity import SPLoss, similarity_loss

__all__ = [
    'qfl_terms',
    'ld_terms',
    'confidence',
    'box_terms',
    'QFLLoss',
    'LDLoss',
    'HeadLoss',
    'BoxL1Loss',
    'BoxLoss',
    'AnchorCriterion',
    'ATLoss',
    'CRDLoss',
    'CWDLoss',
    'CosineLoss',
    'Criterion',
    'DISTLoss',
    'DKDLoss',
    'FGDLoss',
    'HCLLoss',
    'KDLoss',
    'MSELoss',
    'OFDLoss',
    'PKDLoss',
    'PatchSimilarityLoss',
    'SPLoss',
    'attention_loss',
    'attention_map',
    'binary_kd_loss',
    'cosine_loss',
    'cwd_loss',
    'dist_loss',
    'dkd_loss',
    'hcl_loss',
    'kd_loss',
    'mse_loss',
    'nce_loss',
    'partial_l2_loss',
    'patch_similarity_loss',
    'pkd_loss',
    'similarity_loss',
    'standardise',
    'z_scores',
]
