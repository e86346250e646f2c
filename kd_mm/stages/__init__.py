"""Stages: what happens to a pair of features before the criterion."""

from .base import Stage
from .channel_align import ChannelAlign
from .conv_adapter import ConvAdapter
from .dafa import DAFA
from .dam import DAM
from .dpk import DPK
from .mgd import MGD
from .ofd import OFD
from .resize import Resize
from .review import ReviewKD

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
]
