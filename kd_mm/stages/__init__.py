"""Stages: what happens to a pair of features before the criterion."""

from .base import Stage
from .conv_adapter import ConvAdapter
from .dpk import DPK
from .kcd import ChannelAlign
from .mgd import MGD
from .ofd import OFD
from .resize import Resize
from .review import ReviewKD
from .sokd import DAFA, DAM
from .tokens_to_map import TokensToMap

__all__ = [
    'DAFA',
    'DAM',
    'DPK',
    'MGD',
    'OFD',
    'ChannelAlign',
    'ConvAdapter',
    'Resize',
    'ReviewKD',
    'Stage',
    'TokensToMap',
]
