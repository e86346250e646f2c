"""Stages: what happens to a pair of features before the criterion."""

from .base import Stage
from .box_regions import BoxRegions
from .conv_adapter import ConvAdapter
from .cross_kd import CrossKD
from .dpk import DPK
from .kcd import ChannelAlign
from .match_moments import MatchMoments
from .match_queries import MatchQueries
from .merge_teachers import MergeTeachers
from .mgd import MGD
from .ofd import OFD
from .resize import Resize
from .review import ReviewKD
from .sokd import DAFA, DAM
from .teacher_rois import TeacherRoIs
from .tokens_to_map import TokensToMap

__all__ = [
    'DAFA',
    'DAM',
    'DPK',
    'MGD',
    'OFD',
    'BoxRegions',
    'ChannelAlign',
    'ConvAdapter',
    'CrossKD',
    'MatchMoments',
    'MergeTeachers',
    'MatchQueries',
    'Resize',
    'ReviewKD',
    'Stage',
    'TeacherRoIs',
    'TokensToMap',
]
