"""Stages: what happens to a pair of features before the criterion."""

from .base import Stage
from .channel_align import ChannelAlign
from .conv_adapter import ConvAdapter
from .resize import Resize

__all__ = ['ChannelAlign', 'ConvAdapter', 'Resize', 'Stage']
