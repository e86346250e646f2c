"""What a method's name stands for: the links of the shipped snippets, without taps.

Constants stand in ``configs/_base_`` and ``configs/kd_cls/_base_/links`` alone. Here is
which of them a name means, and what the shapes of two networks ask for in addition.
"""

import copy
import functools
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..errors import ConfigError, nearest
from ..pair import LAYOUTS, TOKENS
from ..registry import MODELS
from ..utils.kinds import is_type
from .candidates import Level
from .match import Match

_DENSE, _CLASSES = '_base_/', 'kd_cls/_base_/links/'

# File and dotted key of a link between maps of detectors.
_MAPS = dict(
    fitnet=(f'{_DENSE}fitnet_fpn.py', 'fitnet_fpn.fpn'),
    pkd=(f'{_DENSE}pkd_fpn.py', 'pkd_fpn.fpn'),
    cwd=(f'{_DENSE}cwd_fpn.py', 'cwd_fpn.fpn'),
    kcd=(f'{_DENSE}kcd_fpn.py', 'kcd_pkd_fpn.fpn'),
    sokd=(f'{_DENSE}sokd_fpn.py', 'sokd_fpn.fpn'),
    sokd_stable=(f'{_DENSE}sokd_fpn.py', 'sokd_stable_fpn.fpn'),
    dafa=(f'{_DENSE}sokd_fpn.py', 'dafa_fpn.fpn'),
    dafa_stable=(f'{_DENSE}sokd_fpn.py', 'dafa_stable_fpn.fpn'),
    dam=(f'{_DENSE}sokd_fpn.py', 'dam_fpn.fpn'),
    dam_stable=(f'{_DENSE}sokd_fpn.py', 'dam_stable_fpn.fpn'),
    kcd_dam=(f'{_DENSE}sokd_fpn.py', 'kcd_dam_fpn.fpn'),
    kcd_sokd=(f'{_DENSE}sokd_fpn.py', 'kcd_sokd_fpn.fpn'),
    dpk=(f'{_DENSE}dpk_fpn.py', 'dpk_retina_fpn.fpn'),
    fgd=(f'{_DENSE}dpk_fpn.py', 'dpk_retina_fpn.fpn'),
    mgd=(f'{_CLASSES}mgd.py', 'mgd.imagenet.map'),
    at=(f'{_CLASSES}at.py', 'links.maps'),
    sp=(f'{_CLASSES}sp.py', 'links.map'),
    review=(f'{_CLASSES}review.py', 'review.resnet56_resnet20.review'),
)
# On classifiers another snippet, where there is one: their last map.
_LAST_MAP = dict(
    fitnet=(f'{_CLASSES}fitnet.py', 'links.map'),
    pkd=(f'{_CLASSES}pkd.py', 'links.map'),
    cwd=(f'{_CLASSES}cwd.py', 'links.map'),
    kcd=(f'{_CLASSES}kcd.py', 'links.map'),
    sokd=(f'{_CLASSES}sokd.py', 'sokd.imagenet.map'),
    sokd_stable=(f'{_CLASSES}sokd_stable.py', 'links.map'),
    dpk=(f'{_CLASSES}dpk.py', 'dpk.other.map'),
)
_LOGITS = dict(
    kd=(f'{_CLASSES}kd.py', 'kd.links.logits', 'kd_imagenet.links.logits'),
    dkd=(f'{_CLASSES}dkd.py', 'dkd.resnet56_resnet20.logits', 'dkd.imagenet.logits'),
    dist=(f'{_CLASSES}dist.py', 'dist.logits', 'dist_imagenet.logits'),
    dpk=(f'{_CLASSES}dpk.py', 'dpk.other.logits', 'dpk.other.logits'),  # beside maps
)
_IMAGENET = 1000  # classes from which on the second of two keys is taken
_CIFAR = (10, 100)  # classes for which SoKD's heads are published
AUTO = 'auto'
TRAINED = 'auto_trained'  # for a student whose channels mean something already
AUTOS = (AUTO, TRAINED)
OF_STAGES = ('at', 'review')  # compare several stages of a classifier's backbone
NAMES = tuple(sorted({*AUTOS, 'crd', *_MAPS, *_LOGITS}))

# Stages behind which the widths agree.
_RECONCILE = ('ConvAdapter', 'ChannelAlign', 'DPK', 'MGD', 'ReviewKD', 'OFD')
_TEACHERS = ('ChannelAlign', 'OFD', 'DAFA')  # change the teacher's side, come first


def check_method(name: str) -> None:
    """Refuse a name that stands for no links.

    Raises:
        ConfigError: With the nearest that do.
    """
    if name not in NAMES:
        raise ConfigError(
            f'links={name!r} is no method; {nearest(name, NAMES, count=len(NAMES))}'
        )


def parts_of(method: str, *, classifier: bool, same_classes: bool) -> list[str]:
    """The kinds of links a method is made of: 'logits', 'vector' or 'features'."""
    if method in AUTOS:
        return ['logits', 'features'] if classifier and same_classes else ['features']
    if method == 'crd':
        return ['vector']
    if method == 'dpk':
        return ['logits', 'features'] if classifier and same_classes else ['features']
    return ['logits'] if method in _LOGITS else ['features']


def logits_link(method: str, *, classes: int, sigmoid: bool) -> dict[str, Any]:
    """Stages and criterion between the class scores."""
    name = method
    if method in AUTOS:  # ranks and correlations need three classes that exclude others
        ranked = method == AUTO and classes > 2 and not sigmoid
        name = 'dist' if ranked else 'kd'
    file, few, many = _LOGITS[name]
    link = _snippet(file, many if classes >= _IMAGENET else few)
    if sigmoid and is_type(link['criterion'], 'kd_mm.KDLoss'):
        link['criterion']['sigmoid'] = True
    return link


def vector_link() -> dict[str, Any]:
    """Criterion between pooled vectors."""
    return _snippet(f'{_CLASSES}crd.py', 'links.vector')


def feature_link(
    method: str, found: Match, *, classes: int, scores: str, classifier: bool
) -> dict[str, Any]:
    """Stages and criterion between features, with what their shapes ask for.

    Args:
        method (str): One of :data:`NAMES`.
        found (Match): What is compared.
        classes (int): How many the teacher scores; 0: unknown.
        scores (str): Path of its layer that does; '': none.
        classifier (bool): Whether the student scores whole images.
    """
    name = method
    if method in AUTOS:
        name = 'pkd' if classifier or method == AUTO else 'cwd'
    if classifier:
        file, key = _LAST_MAP.get(name, _MAPS[name])
        key = f'sokd.cifar{classes}.map' if _is_published(name, classes) else key
    else:
        file, key = _MAPS[name]
    link = _snippet(file, key)
    if method == TRAINED and all(s.width == t.width for s, t in found.levels):
        where = _LAST_MAP if classifier else _MAPS
        link['stages'] = [*_snippet(*where['kcd'])['stages'], *link.get('stages', ())]
    _fit_to_network(link, name, found.levels, scores, classifier)
    link['stages'] = _in_order(link, found.levels)
    return {key: value for key, value in link.items() if value}


def _is_published(name: str, classes: int) -> bool:
    return name == 'sokd' and classes in _CIFAR


def _snippet(file: str, key: str) -> dict[str, Any]:
    """A link of a shipped snippet without its taps and its epochs.

    How long something lasts belongs to the training that it is from.
    """
    link: Any = _read(file)
    for part in key.split('.'):
        link = link[part]
    link = copy.deepcopy(link)
    for option in ('student', 'teacher', 'levels', 'schedule'):
        link.pop(option, None)
    for stage in link.get('stages', ()):
        stage.pop('search_epochs', None)
    return link


@functools.cache
def _read(file: str) -> dict[str, Any]:
    package = Path(__file__).resolve().parents[1]
    places = (package / '.mim/configs', package.parent / 'configs')
    path = next((p / file for p in places if (p / file).is_file()), places[0] / file)
    return Config.fromfile(path)._cfg_dict.to_dict()


def _fit_to_network(
    link: dict, name: str, levels: list[tuple[Level, Level]], scores: str, classes: bool
) -> None:
    """What the snippets have for one pair, made for this one."""
    stages = list(link.get('stages', ()))
    if name == 'fgd':
        stages = []
    for stage in stages:
        if is_type(stage, 'kd_mm.ChannelAlign'):
            widths = {(s.width, t.width) for s, t in levels}
            stage['share'] = len(widths) == 1 and len(levels) > 1
        if is_type(stage, 'kd_mm.DAM') and classes and 'supervision' in stage:
            stage.update(supervision='cam', classifier=scores)  # there are no boxes
        if is_type(stage, 'kd_mm.ReviewKD'):
            stage.pop('mid')  # of one pair
        if is_type(stage, 'kd_mm.MGD'):
            stage.update({} if classes else dict(mask='spatial', ratio=0.65))
        if is_type(stage, 'kd_mm.DPK') and not classes:
            _rebuild_by_stride(stage, levels)
    link['stages'] = stages
    if classes and is_type(link['criterion'], 'kd_mm.FGDLoss'):
        raise ConfigError(
            f'links={name!r}: FGDLoss needs boxes, and the student classifies images'
        )


def _rebuild_by_stride(stage: dict, levels: list[tuple[Level, Level]]) -> None:
    """DPK's sizes are published for strides 16 to 128; a finer level stays as it is."""
    sizes = {16 * 2**i: i for i in range(len(stage['patch']))}
    nearest_size = [
        min(sizes, key=lambda stride: abs(stride - student.stride))
        for student, _ in levels
    ]
    chosen = [i for i, (s, _) in enumerate(levels) if s.stride > 11] or [
        len(levels) - 1
    ]
    stage['levels'] = chosen
    for option in ('patch', 'encoder', 'decoder'):
        values = stage[option]
        stage[option] = [values[sizes[nearest_size[i]]] for i in chosen]


def _parts(link: dict) -> list[dict]:
    return [*link['stages'], link['criterion']]


def _in_order(link: dict, levels: list[tuple[Level, Level]]) -> list[dict]:
    """The stages, with what brings forms, sizes and widths together where it belongs.

    What changes the teacher's side comes first, then what rebuilds or adapts the
    student's, then where to compare.
    """
    own = [s for s in link['stages'] if not is_type(s, 'Resize', 'TokensToMap')]
    front = _maps_of_one_size(levels, needed=_needs_maps(link))
    teachers = [s for s in own if is_type(s, *_TEACHERS)]
    rest = [s for s in own if not is_type(s, *_TEACHERS)]
    differ = any(s.width != t.width for s, t in levels)
    agree = any(
        is_type(s, *_RECONCILE) and len(s.get('levels') or levels) == len(levels)
        for s in own
    )
    if differ and not agree and MODELS.get(link['criterion']['type']).same_shape:
        rest.insert(0, dict(type='kd_mm.ConvAdapter'))
    return [*front, *teachers, *rest]


def _needs_maps(link: dict) -> bool:
    """Whether a part has no meaning for tokens, or for tokens does less."""
    kinds = [MODELS.get(part['type']) for part in _parts(link)]
    return any(
        TOKENS not in getattr(kind, 'layouts', LAYOUTS) for kind in kinds
    ) or any(is_type(s, 'DAFA') or 'kernel_size' in s for s in link['stages'])


def _maps_of_one_size(levels: list[tuple[Level, Level]], *, needed: bool) -> list[dict]:
    """TokensToMap and Resize, where forms or sizes differ."""
    stages = []
    forms = {level.form for pair in levels for level in pair}
    as_they_are = forms == {TOKENS} and not needed
    if as_they_are and all(s.shape[1] == t.shape[1] for s, t in levels):
        return []
    if TOKENS in forms:
        stages.append(dict(type='kd_mm.TokensToMap'))
    if any(s.size != t.size for s, t in levels):
        cells = [
            sum(level.size[0] * level.size[1] for level in side)
            for side in zip(*levels, strict=True)
        ]
        side = 'teacher' if cells[1] >= cells[0] else 'student'
        stages.append(dict(type='kd_mm.Resize', side=side, mode='area'))
    return stages
