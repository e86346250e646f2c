"""DPK: part of the teacher's feature is the student's input."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather, get_rank, get_world_size
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import Tensor, nn

from ...diagnostics import HostCopy
from ...errors import ConfigError
from ...options import Count, Fraction, Natural, Rule, checked
from ...pair import MAP, FeaturePair, check_layouts
from ...registry import MODELS
from ...schedule import Progress
from ...utils.flops import Flops
from ..base import Stage, recall_after_load
from .cka import cka, with_earlier
from .prior_net import PriorNet, Size

Ratio = Literal['cka', 'cosine', 'random', 'linear', 'exponential']
Sizes = Annotated[
    Sequence[Count | Sequence[Count]], Rule('not empty', lambda sizes: len(sizes) > 0)
]
Bounds = Annotated[
    tuple[Fraction, Fraction], Rule('in order', lambda pair: pair[0] <= pair[1])
]
DEFAULT_BOUNDS = (0.1, 0.95)
GRID = 8  # features are averaged to GRID x GRID cells before they are compared
LEAST = 4  # images that unbiased CKA needs
Images = Annotated[
    int, Rule(f'that is 0 or >= {LEAST}', lambda n: n == 0 or n >= LEAST)
]


@MODELS.register_module()
class DPK(Stage):
    """Rebuild the teacher's map from part of it and the rest of the student's. DPK.

    Source: Dynamic Prior Knowledge, arXiv 2206.06067; architecture and ratio follow the
    authors' code. At a random part of the positions the teacher's tokens are given, at
    the others the student's; two encoders and a decoder rebuild the whole map, which
    takes the student's place on the way to the criterion. With
    :class:`kd_mm.criteria.MSELoss` that is the paper's loss.

    How much of the teacher is given is ``1 - CKA`` of the two maps (unbiased, over the
    last ``images`` images of all ranks): the wider the gap, the more help. Our choices:
    maps are averaged to 8 x 8 cells for the CKA, so that images of different sizes
    compare and ranks exchange little; images of earlier steps fill up a batch that is
    too small for the estimator; a ratio takes effect one step later, so that no step
    waits for the device; before there is one, ``fallback`` holds.

    The modules can outweigh the student: their parameters and FLOPs are logged at the
    start. They exist only while it trains.

    Args:
        levels (Sequence[int], optional): Which levels of the link are rebuilt; the
            others go on as they are. Defaults to None, all.
        patch (int | Sequence[int]): Side of a token in cells, for all of ``levels`` or
            one each. Defaults to 1.
        encoder (Sequence): ``(width, blocks, heads)`` of the encoders, or one such for
            each of ``levels``. Defaults to (256, 4, 8).
        decoder (Sequence): The same of the decoder. Defaults to (256, 4, 8).
        ratio (str | float): Share of the teacher's positions. 'cka'; for comparison a
            constant in [0, 1], 'random' (uniform within ``bounds`` in every step),
            'linear' or 'exponential' (from the upper to the lower bound over the
            training), or 'cosine' (one minus the cosine similarity, widths being
            equal). Defaults to 'cka'.
        bounds (tuple[float, float]): Of the ratio. Defaults to (0.1, 0.95).
        fallback (float): Ratio where CKA has none in (0, 1). The authors use 0.8 on
            ImageNet, 0.9 on CIFAR and 0.5 on COCO. Defaults to 0.5.
        images (int): How many images the CKA is estimated from, at least; 0: those of
            the batch only. Defaults to 16.
        positions (str): 'random', or 'energy': where the teacher's feature is
            largest. Defaults to 'random'.
        seed (int): Of the positions. Defaults to 0.
        dtype (str, optional): 'bf16' to compute the modules in; weights and the map
            that comes out stay as they are. Defaults to None: as the surroundings, so
            in half precision under AMP.
        checkpoint (bool): Whether the backward pass computes every transformer block
            once more instead of keeping what is inside, for a third more time of the
            modules. Defaults to False.

    Shapes:
        student ``(N, Cs, H, W)``, teacher ``(N, Ct, H, W)`` -> student
        ``(N, Ct, H, W)``.

    Raises:
        ConfigError: For unknown names or numbers out of range, lists that are not as
            long as ``levels``, or anything but maps of equal size.
    """

    mixes_channels = True
    layouts = (MAP,)

    @checked
    def __init__(
        self,
        *,
        levels: Sequence[Natural] | None = None,
        patch: Count | Sequence[Count] = 1,
        encoder: Sizes = (256, 4, 8),
        decoder: Sizes = (256, 4, 8),
        ratio: Fraction | Ratio = 'cka',
        bounds: Bounds = DEFAULT_BOUNDS,
        fallback: Fraction = 0.5,
        images: Images = 16,
        positions: Literal['random', 'energy'] = 'random',
        seed: Natural = 0,
        dtype: Literal['bf16'] | None = None,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(ratio, str) and tuple(bounds) != DEFAULT_BOUNDS:
            raise ConfigError(
                f'DPK.bounds={tuple(bounds)} has no effect with a constant ratio, '
                f'here {ratio:g}'
            )
        if ratio == 'exponential' and not bounds[1]:
            raise ConfigError("DPK(ratio='exponential') falls from bounds[1], here 0")
        self.levels, self.ratio, self.bounds = levels, ratio, tuple(bounds)
        self.fallback, self.images, self.positions = fallback, images, positions
        self.seed, self.dtype, self.checkpoint = seed, dtype, checkpoint
        self.wanted = dict(patch=patch, encoder=encoder, decoder=decoder)
        self.nets = nn.ModuleDict()
        self.register_buffer('steps', torch.tensor(0))
        self._steps = 0  # the same on the host: read in every step
        self._coming: HostCopy | None = None
        self.register_load_state_dict_post_hook(recall_after_load)

    # ---- shapes ---------------------------------------------------------------

    def setup(self, pair: FeaturePair) -> None:
        levels = self._own(pair)
        check_layouts('DPK', self.layouts, pair, same='size', levels=levels)
        sizes = {key: per_level(key, v, len(levels)) for key, v in self.wanted.items()}
        for i, level in enumerate(levels):
            student, teacher = pair.student[level], pair.teacher[level]
            if self.ratio == 'cosine' and student.shape[1] != teacher.shape[1]:
                raise ConfigError(f"DPK(ratio='cosine'): level {level} has two widths")
            net = PriorNet(
                student=student.shape[1],
                teacher=teacher.shape[1],
                patch=sizes['patch'][i],
                encoder=Size(*sizes['encoder'][i]),
                decoder=Size(*sizes['decoder'][i]),
                checkpoint=self.checkpoint,
            )
            self.nets[str(level)] = net
            describe(f'links.{pair.link}: DPK level {level}', net, student, teacher)
            if self.images and self.ratio == 'cka':
                for side, feature in (('student', student), ('teacher', teacher)):
                    width = feature.shape[1] * GRID * GRID
                    memory = torch.zeros(self.images, width)
                    self.register_buffer(f'{side}_{level}', memory)
        self.register_buffer('filled', torch.tensor(0))
        self._filled = 0
        self.register_buffer('ratios', torch.full((len(levels),), self.fallback))
        self._ratios = [self.fallback] * len(levels)

    def _own(self, pair: FeaturePair) -> list[int]:
        """The levels that are rebuilt."""
        count = len(pair.student)
        levels = list(range(count)) if self.levels is None else list(self.levels)
        if not levels or max(levels) >= count or len(set(levels)) < len(levels):
            raise ConfigError(f'DPK.levels={self.levels} of a link with {count} levels')
        return levels

    # ---- use ------------------------------------------------------------------

    def forward(self, pair: FeaturePair) -> FeaturePair:
        ratios = self._current_ratios(pair.progress)
        for i, (key, net) in enumerate(self.nets.items()):
            level = int(key)
            student, teacher = pair.student[level], pair.teacher[level]
            rows, columns = net.grid(*student.shape[2:])
            count = int(ratios[i] * rows * columns)
            order = self._order(teacher, net, level)
            with precision(student, self.dtype):
                rebuilt = net(student, teacher, order, count)
            pair.student[level] = rebuilt.to(student.dtype) if self.dtype else rebuilt
            pair.logs[f'ratio_{level}'] = torch.tensor(ratios[i])
            if self.training and self.ratio in ('cka', 'cosine'):
                alike = self._alike(level, student.detach(), teacher)
                pair.logs[f'{self.ratio}_{level}'] = alike
                self.ratios[i] = bounded(1 - alike, self.bounds, self.fallback)
        if self.training:
            self._advance(len(pair.student[0]))
        return pair

    def _advance(self, batch: int) -> None:
        if self.ratio in ('cka', 'cosine'):
            self._coming = HostCopy(self.ratios.clone())
        seen = self._filled + batch * get_world_size()
        self._filled = min(seen, self.images)
        self.filled.fill_(self._filled)
        self._steps += 1
        self.steps.fill_(self._steps)

    def _current_ratios(self, now: Progress) -> list[float]:
        """One for every level; known on the host without waiting."""
        low, high = self.bounds
        if not isinstance(self.ratio, str):
            return [float(self.ratio)] * len(self.nets)
        if self.ratio == 'random':
            generator = torch.Generator().manual_seed(self._seed())
            share = torch.rand(len(self.nets), generator=generator)
            return (low + (high - low) * share).tolist()
        if self.ratio in ('linear', 'exponential'):
            done = now.iter / now.max_iters if now.max_iters else 0.0
            if self.ratio == 'linear':
                return [high + (low - high) * done] * len(self.nets)
            return [high * (max(low, min(1e-3, high)) / high) ** done] * len(self.nets)
        if self._coming is not None:
            self._ratios = self._coming.read().tolist()
            self._coming = None
        return self._ratios

    def _seed(self, level: int = 0, rank: int = 0) -> int:
        number = (self.seed * 1009 + rank) * 1009 + level
        return (number * 1_000_003 + self._steps) % 2**63

    def _order(self, teacher: Tensor, net: PriorNet, level: int) -> Tensor:
        """Token positions of every image, the teacher's first, ``(N, T)``."""
        rows, columns = net.grid(*teacher.shape[2:])
        if self.positions == 'energy':
            energy = teacher.float().square().mean(1, keepdim=True)
            tokens = F.avg_pool2d(energy, net.patch, ceil_mode=True).flatten(1)
            return tokens.argsort(1, descending=True)
        generator = torch.Generator(teacher.device)
        generator.manual_seed(self._seed(level, get_rank()))
        height = torch.rand(
            len(teacher), rows * columns, generator=generator, device=teacher.device
        )
        return height.argsort(1)

    def before_train(self, runner: Runner) -> None:
        """A run that starts anew may have another teacher, and looks at it first."""
        if runner._resume:
            return
        for name, buffer in self.named_buffers(recurse=False):
            buffer.fill_(self.fallback if name == 'ratios' else 0)
        self.recall()

    def recall(self) -> None:
        self._steps, self._coming = int(self.steps), None
        if hasattr(self, 'ratios'):
            self._ratios = self.ratios.tolist()
            self._filled = int(self.filled)

    # ---- how alike are they? --------------------------------------------------

    @torch.no_grad()
    def _alike(self, level: int, student: Tensor, teacher: Tensor) -> Tensor:
        with torch.autocast(student.device.type, enabled=False):
            if self.ratio == 'cosine':
                similarity = F.cosine_similarity(
                    student.float().flatten(1), teacher.float().flatten(1)
                )
                return torch.stack(all_gather(similarity.mean())).mean()
            sides = []
            for side, feature in (('student', student), ('teacher', teacher)):
                seen = F.adaptive_avg_pool2d(feature.float(), GRID).flatten(1)
                seen = torch.cat(all_gather(seen.contiguous()))
                sides.append(self._with_earlier(f'{side}_{level}', seen))
            if len(sides[0]) < LEAST:
                return student.new_full((), float('nan'), dtype=torch.float32)
            return cka(*sides)

    def _with_earlier(self, name: str, seen: Tensor) -> Tensor:
        """This step's images, filled up with those of the steps before."""
        if not self.images:
            return seen
        memory = getattr(self, name)
        together = with_earlier(seen, memory[: self._filled], self.images)
        newest = together[: self.images]
        memory[: len(newest)] = newest
        return together


def precision(like: Tensor, dtype: str | None) -> AbstractContextManager:
    """What modules compute in; without a dtype as the surroundings do."""
    if dtype is None:
        return nullcontext()
    return torch.autocast(like.device.type, dtype=torch.bfloat16)


def bounded(ratio: Tensor, bounds: tuple[float, ...], fallback: float) -> Tensor:
    """Clamp a ratio in (0, 1); nan and everything else becomes ``fallback``."""
    valid = (ratio > 0) & (ratio < 1)
    return torch.where(valid, ratio.clamp(*bounds), fallback)


def per_level(key: str, value: Any, count: int) -> list:
    """A value for all levels, or a list of one each, as a list."""
    single = isinstance(value, int) if key == 'patch' else isinstance(value[0], int)
    values = [value] * count if single else list(value)
    if len(values) != count:
        raise ConfigError(f'DPK.{key} has {len(values)} entries for {count} levels')
    for one in values:
        if key != 'patch' and (len(one) != 3 or one[0] % 4 or one[0] % one[2]):
            raise ConfigError(
                f'DPK.{key} is (width, blocks, heads), the width a multiple of 4 and '
                f'of the heads, not {tuple(one)}'
            )
    return values


def describe(where: str, net: PriorNet, student: Tensor, teacher: Tensor) -> None:
    """Log parameters, and FLOPs of one image of the trial."""
    rows, columns = net.grid(*student.shape[2:])
    order = torch.arange(rows * columns)[None]
    with torch.no_grad(), Flops() as counter:
        net(student[:1].detach(), teacher[:1], order, rows * columns // 2)
    parameters = sum(p.numel() for p in net.parameters())
    MMLogger.get_current_instance().info(
        f'{where}: {parameters / 1e6:.2f} M parameters, '
        f'{counter.total / 1e9:.3f} GFLOPs for a map of '
        f'{tuple(student.shape[2:])}, while training only'
    )
