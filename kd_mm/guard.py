"""What becomes of the student's own loss beside a link."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from zlib import crc32

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from .diagnostics import HostCopy

KEPT = 0.95  # of an average, a step: about the last twenty count
GAIN = 4.0  # how fast the part answers to the loss, as a power of their ratio
LEAST = 1e-3  # of the part that was asked for
TOLD = 0.25  # how far the loss rises before the log says so
SURE = 3.0  # standard errors beyond that: batches differ
PLACES = 4096  # for names in a checkpoint: averages of models want one size for ever


class Guard(nn.Module):
    """Says when a student gets worse beside a link, and can bound that. Our choice.

    The student's own loss in the first steps is what it is measured by; terms that come
    to it later (a head's L1 loss in the last epochs) do not count. With a ``tolerance``
    what is left of the link's part is multiplied by ``(allowed / loss) ** 4`` whenever
    a probe has come in, up to all of it: it shrinks as long as the loss is above what
    is allowed, and comes back afterwards. A student that starts from nothing never
    comes near that. (Resumed with several ranks, the steps since the last probe are
    those of the first rank: its checkpoint is everybody's.)

    Args:
        tolerance (float, optional): How far the loss may rise, as a part of what it
            was, and beyond that by three standard errors of the two averages. None: it
            is only said.

    Attributes:
        left (Tensor): Of the link's part, in (0, 1], a scalar.
    """

    heard: Tensor
    level: Tensor
    left: Tensor

    def __init__(self, *, tolerance: float | None = None) -> None:
        super().__init__()
        self.tolerance = tolerance
        # since the last probe: sums of the losses and of their squares, their number
        self.register_buffer('heard', torch.zeros(3))
        # the same of the first steps; the loss of late
        self.register_buffer('level', torch.zeros(4))
        self.register_buffer('left', torch.ones(()))
        self.restart()

    def _apply(self, fn: Callable, recurse: bool = True) -> 'Guard':
        super()._apply(fn, recurse)
        for name, buffer in self.named_buffers():
            setattr(self, name, buffer.float())  # sums need more than half precision
        return self

    @torch.no_grad()
    def restart(self) -> None:
        """Forget everything."""
        self.heard.zero_()
        self.level.zero_()
        self.left.fill_(1.0)
        self._names: set[int] = set()
        self._told = False
        self._copy: HostCopy | None = None

    @torch.no_grad()
    def hear(self, losses: Mapping[str, Any], *, settled: bool) -> None:
        """Take note of a step.

        Args:
            losses (Mapping[str, Any]): The student's, as its ``loss`` gives them. What
                is not finite is left out.
            settled (bool): Whether the first steps are over.
        """
        if not settled:
            self._names |= {_place(name) for name in losses if 'loss' in name}
        found = [
            part.detach().to(self.heard).mean()
            for name in sorted(losses)
            if _place(name) in self._names
            for part in _tensors(losses[name])
        ]
        if found:
            total = torch.stack(found).sum()
            noted = torch.stack([total, total.square(), torch.ones_like(total)])
            self.heard += torch.where(noted[:2].isfinite().all(), noted, 0.0)

    @torch.no_grad()
    def follow(self, heard: Tensor, *, settled: bool) -> None:
        """Let the part follow the losses up to a probe.

        Args:
            heard (Tensor): What was heard, the mean of all ranks.
            settled (bool): Whether the first steps are over.
        """
        self.heard.zero_()
        if not settled:
            self.level[:3] += heard
            self.level[3] = _ratio(self.level[0], self.level[2])
            return
        steps = heard[2]
        late = self.level[3].lerp(_ratio(heard[0], steps), 1 - KEPT**steps)
        self.level[3] = late
        if self.tolerance is not None:
            first, allowed = self._allowed(self.tolerance)
            # at 0 or below it is as good as can be
            ratio = torch.where(late > 0, allowed / late, math.inf)
            left = (self.left * ratio**GAIN).clamp(LEAST, 1.0)
            self.left.copy_(torch.where((first > 0) & (steps > 0), left, self.left))
        if not self._told and self._copy is None:
            self._copy = HostCopy(torch.stack([*self._allowed(TOLD), late]))

    def _allowed(self, tolerance: float) -> tuple[Tensor, Tensor]:
        """The loss in the first steps, and what it may be after a rise by a part."""
        total, squares, steps, _ = self.level
        first = _ratio(total, steps)
        variance = (_ratio(squares, steps) - first.square()).clamp(min=0)
        error = (variance * (1 / steps.clamp(min=1) + (1 - KEPT) / (1 + KEPT))).sqrt()
        return first, (1 + tolerance) * first + SURE * error

    def tell(self, link: str) -> None:
        """Say once that the student got worse, without waiting for the device."""
        if self._copy is None:
            return
        (first, allowed, late), self._copy = self._copy.read().tolist(), None
        if not 0 < first <= allowed < late < math.inf:
            return
        self._told = True
        what = (
            'and is free to rise: look at the validation before you train to the end; '
            'share.tolerance=0.1 would bound it'
            if self.tolerance is None
            else 'so the link takes less until it is back near '
            f'{1 + self.tolerance:g} times (share.tolerance)'
        )
        MMLogger.get_current_instance().warning(
            f"links.{link}: the student's own loss is {late / first:.2f} times what "
            f'it was in its first steps with the link, {what}; a smaller share or '
            'learning rate disturbs less'
        )

    # ---- checkpoints ----------------------------------------------------------

    def get_extra_state(self) -> Tensor:
        """Which losses count: a 1 in the place of each of their names."""
        places = torch.zeros(PLACES, dtype=torch.uint8)
        places[[*self._names]] = 1
        return places

    def set_extra_state(self, state: Tensor) -> None:
        self._names = {*state.nonzero().flatten().tolist()}


def _place(name: str) -> int:
    """The place of a name, the same in every process."""
    return crc32(name.encode()) % PLACES


def _ratio(total: Tensor, number: Tensor) -> Tensor:
    """Their quotient, 0 of nothing."""
    return total / torch.where(number > 0, number, 1.0)


def _tensors(loss: Any) -> Iterator[Tensor]:
    """The parts of one entry that MMEngine adds up."""
    for part in loss if isinstance(loss, list | tuple) else [loss]:
        if isinstance(part, Tensor):
            yield part
