"""Stages: what happens to a pair of features before the criterion."""

from .base import Stage
from .channel_align import ChannelAlign
from .conv_adapter import ConvAdapter
from .dafa import DAFA
from .dam import DAM
from .dpk import DPK
from .resize import Resize

__all__ = ['DAFA', 'DAM', 'DPK', 'ChannelAlign', 'ConvAdapter', 'Resize', 'Stage']
