"""CrossKD: both sides go through the rest of the teacher."""

import re
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ..errors import ConfigError, nearest, within
from ..link import Link
from ..options import checked
from ..pair import FeaturePair
from ..registry import MODELS
from .base import Borrowed, Stage

_STEP = re.compile(
    r'^(?P<path>\w+(?:\.(?:\w+|\{level\}))*)(?:\[(?P<first>\d*):(?P<end>\d*)\])?$'
)


def teacher_modules(teacher: nn.Module, step: str, level: int) -> list[nn.Module]:
    """The modules of one step of a chain.

    Args:
        teacher (nn.Module): Where to look.
        step (str): A dotted path; ``path[a:b]`` for some of a list, in order.
            ``{level}`` stands for the level's number.
        level (int): That number.

    Raises:
        ConfigError: If there is no such module, or it is a list.
    """
    match = _STEP.match(step)
    if match is None:
        raise ConfigError(
            f'{step!r} is no step: write a module of the teacher, such as '
            '"bbox_head.retina_cls", "bbox_head.cls_convs[3:]" or '
            '"bbox_head.scales.{level}"'
        )
    path = match['path'].format(level=level)
    names = dict(teacher.named_modules(remove_duplicate=False))
    if path not in names:
        raise ConfigError(
            f'the teacher {type(teacher).__name__} has no module {path!r}; '
            f'{nearest(path, filter(None, names))}'
        )
    module = names[path]
    if match['first'] is None:
        if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            raise ConfigError(
                f'{path!r} is a {type(module).__name__}: write "{path}[0:]" for all '
                f'its modules in order, or "{path}.{{level}}" for one a level'
            )
        return [module]
    if not isinstance(module, (nn.ModuleList, nn.Sequential)):
        raise ConfigError(f'{path!r} is a {type(module).__name__}, which has no parts')
    first, end = (int(match[key]) if match[key] else None for key in ('first', 'end'))
    return list(module)[first:end]


def refuse_other_channels(stage: Stage, link: Link) -> None:
    """Whoever reads a feature by the teacher's own layers wants it as the teacher's.

    Raises:
        ConfigError: If a stage before this one moves the teacher's channels, or makes
            one feature of those of several teachers.
    """
    before, _ = link.around(stage)
    for other in before:
        name = type(other).__name__
        if other.moves_channels or other.merges:
            does = 'merges teachers' if other.merges else 'moves channels'
            raise ConfigError(
                f"{name} stands before it and {does}, which the teacher's layers "
                'would misread; use it in a link of its own'
            )


# What came out behind a feature and some modules, by their ids, and its version.
Made: TypeAlias = dict[tuple[int, ...], tuple[Tensor, int]]


@MODELS.register_module()
class CrossKD(Stage):
    """Let both sides run on through the teacher's remaining layers.

    Source: CrossKD, arXiv 2306.11369, section 3.2: the student's feature after the i-th
    convolution of its head is read by the *teacher's* layers behind it, and these cross
    predictions are compared with the teacher's. The student's own last layers get no
    gradient from it, so labels and teacher do not pull them two ways. The published
    recipe puts :class:`kd_mm.stages.MatchMoments` in front.

    The teacher's modules are borrowed: frozen, in eval mode, in no state dict, not
    copied. Its own feature goes through the same modules, so tap both networks at the
    same place; the teacher then runs no further than that.

    Args:
        rest (list[str] | list[list[str]]): What follows the tap in the teacher: dotted
            paths of modules, in order, each fed with what the one before gives. A slice
            takes some of a list (``bbox_head.cls_convs[3:]``); ``{level}`` is the
            number of the level where every level has its own module
            (``bbox_head.scales.{level}``). A list of lists is one for each branch of a
            head: the link's levels are then those of the first branch, the second ...

    Shapes:
        student and teacher: what the first module takes, of equal widths -> what the
        last one gives.

    Raises:
        ConfigError: If a module does not exist or does not fit, or the levels are no
            multiple of the branches. What is no module (``exp()`` behind a layer, a
            concatenation of two branches) cannot be a step.
    """

    moves_channels = True

    @checked
    def __init__(self, *, rest: Sequence[str | Sequence[str]]) -> None:
        super().__init__()
        if not rest or not all(rest):
            raise ConfigError('CrossKD.rest names no module')
        steps = [step for step in rest if isinstance(step, str)]
        lists = [list(step) for step in rest if not isinstance(step, str)]
        if steps and lists:
            raise ConfigError('CrossKD.rest mixes modules and lists of modules')
        self.branches: list[list[str]] = lists or [steps]
        self._teacher: Borrowed[nn.Module] | None = None
        self._chains: Borrowed[list[list[nn.Module]]] = Borrowed([])
        self._keeps_input = True  # no module changes in place what it is given
        self._keeps_all = True  # nor what one before it gave

    def connect(self, teacher: nn.Module) -> None:
        self._teacher = Borrowed(teacher)

    def borrowed(self) -> list[nn.Module]:
        return [module for chain in self._chains.it for module in chain]

    def setup(self, pair: FeaturePair) -> None:
        super().setup(pair)
        if self._teacher is None:
            raise ConfigError('CrossKD needs a teacher to borrow from')
        count, left = divmod(len(pair.student), len(self.branches))
        if left:
            raise ConfigError(
                f'rest has {len(self.branches)} branches and the link '
                f'{len(pair.student)} levels, which are no multiple of it'
            )
        chains = []
        for number, branch in enumerate(self.branches):
            where = f'rest[{number}]' if len(self.branches) > 1 else 'rest'
            for level in range(count):
                chain = []
                for i, step in enumerate(branch):
                    with within(f'{where}[{i}]: '):
                        chain += teacher_modules(self._teacher.it, step, level)
                chains.append(chain)
        self._chains = Borrowed(chains)
        for side in (pair.student, pair.teacher):
            for chain, feature in zip(chains, side, strict=True):
                probe = feature.clone()
                made: Made = {}
                before = probe._version
                _through(chain, probe, made)
                self._keeps_input &= probe._version == before
                self._keeps_all &= all(t._version == v for t, v in made.values())

    def check(self, link: Link) -> None:
        refuse_other_channels(self, link)
        numbered = any('{level}' in step for branch in self.branches for step in branch)
        if numbered and any(levels is not None for levels in link.levels.values()):
            raise ConfigError(
                'rest counts {level} from the first tensor of a branch, which '
                'links.*.levels leaves out or moves; compare all levels'
            )

    def forward(self, pair: FeaturePair) -> FeaturePair:
        pair.student = self._all(pair.student)
        with torch.no_grad():
            pair.teacher = self._all(pair.teacher)
        return pair

    def _all(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Branches that begin alike, with one feature, go together so far."""
        made: Made = {}
        given: dict[tuple[int, int], Tensor] = {}  # to a first module
        out = []
        for chain, feature in zip(self._chains.it, features, strict=True):
            if not self._keeps_all:
                made, given = {}, {}
            key = id(feature), id(chain[0])
            if key not in given:
                given[key] = feature if self._keeps_input else feature.clone()
            out.append(_through(chain, given[key], made))
        return out


def _through(chain: Sequence[nn.Module], feature: Tensor, made: Made) -> Tensor:
    """A feature behind modules that may be stored in another type than autocast's.

    Args:
        chain (Sequence[nn.Module]): The modules.
        feature (Tensor): What the first is fed with.
        made (dict): What modules have given behind which feature, and in which version;
            looked up and added to.
    """
    stored = next((p.dtype for module in chain for p in module.parameters()), None)
    half = stored in (torch.bfloat16, torch.float16) and stored != feature.dtype
    context = torch.autocast(feature.device.type, enabled=False)
    with context if half else nullcontext():
        out = feature.to(stored) if half else feature
        key: tuple[int, ...] = (id(feature),)
        for module in chain:
            key = (*key, id(module))
            if key not in made:
                new = module(out)
                made[key] = new, getattr(new, '_version', 0)
            out = made[key][0]
    if not isinstance(out, Tensor):
        raise ConfigError(
            f'the last module of rest, a {type(chain[-1]).__name__}, gives a '
            f'{type(out).__name__} and no tensor'
        )
    return out.float() if half else out
