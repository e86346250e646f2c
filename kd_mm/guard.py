"""What becomes of the student's own loss beside a link."""

import math

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from .diagnostics import HostCopy

KEPT = 0.95  # of an average, a step: about the last twenty count
GAIN = 4.0  # how fast the part answers to the loss, as a power of their ratio
LEAST = 1e-3  # of the part that was asked for
TOLD = 1.25  # how far the loss has risen when the log says so


class Guard(nn.Module):
    """Says when a student gets worse beside a link, and can bound that. Our choice.

    The student's own loss in the first steps is what it is measured by. With a
    ``tolerance``, what is left of the link's part is multiplied by
    ``(allowed / loss) ** 4`` whenever a probe has come in, up to all of it: it shrinks
    as long as the loss is above what is allowed, and comes back afterwards. A student
    that starts from nothing never comes near that.

    Args:
        tolerance (float, optional): How far the loss may rise, as a part of what it
            was. None: it is only said.

    Attributes:
        left (Tensor): Of the link's part, in (0, 1], a scalar.
    """

    heard: Tensor
    level: Tensor
    left: Tensor

    def __init__(self, *, tolerance: float | None = None) -> None:
        super().__init__()
        self.tolerance = tolerance
        # since the last probe: the sum of the losses, and their number
        self.register_buffer('heard', torch.zeros(2))
        # of the loss in the first steps, and of late; in how many steps
        self.register_buffer('level', torch.zeros(3))
        self.register_buffer('left', torch.ones(()))
        self.restart()

    @torch.no_grad()
    def restart(self) -> None:
        """Forget everything."""
        self.heard.zero_()
        self.level.zero_()
        self.left.fill_(1.0)
        self._told = False
        self._copy: HostCopy | None = None

    @torch.no_grad()
    def hear(self, loss: Tensor, grown: Tensor | None = None) -> None:
        """Take note of a step.

        Args:
            loss (Tensor): The student's own, a scalar; what is not finite is left out.
            grown (Tensor, optional): How much larger it is than without what has come
                to it since the step before (a head's L1 loss in the last epochs).
        """
        if grown is not None:
            self.heard[0] *= grown
            self.level[:2] *= grown
        fine = loss.isfinite()
        counted = torch.stack([loss.where(fine, 0.0), fine.to(loss.dtype)])
        self.heard += counted.to(self.heard)

    @torch.no_grad()
    def follow(self, heard: Tensor, *, settled: bool) -> None:
        """Let the part follow the losses up to a probe.

        Args:
            heard (Tensor): Their sum and number, the mean of all ranks'.
            settled (bool): Whether the first steps are over.
        """
        total, steps = heard
        first, late, seen = self.level.float()
        mean = total / steps.clamp(min=1)
        if not settled:
            first = first + (mean - first) * steps / (seen + steps).clamp(min=1)
            late, seen = first, seen + steps
        else:
            late = late.lerp(mean, 1 - KEPT**steps)
        self.level.copy_(torch.stack([first, late, seen]))
        self.heard.zero_()
        if settled:
            self._act(first / late)
        if not self._told and self._copy is None:
            self._copy = HostCopy(self.level)

    def _act(self, ratio: Tensor) -> None:
        if self.tolerance is None:
            return
        left = self.left.float() * ((1 + self.tolerance) * ratio) ** GAIN
        fine = (ratio > 0) & ratio.isfinite()
        self.left.copy_(torch.where(fine, left.clamp(LEAST, 1.0), self.left))

    def tell(self, link: str) -> None:
        """Say once that the student got worse, without waiting for the device."""
        if self._copy is None:
            return
        (first, late, _), self._copy = self._copy.read().tolist(), None
        if not 0 < TOLD * first < late < math.inf:
            return
        self._told = True
        what = (
            'and is free to rise: look at the validation before you train to the end; '
            'share.tolerance=0.1 would bound it'
            if self.tolerance is None
            else 'so the link takes less until it is back below '
            f'{1 + self.tolerance:g} times (share.tolerance)'
        )
        MMLogger.get_current_instance().warning(
            f"links.{link}: the student's own loss is {late / first:.2f} times what "
            f'it was in its first steps with the link, {what}; a smaller share or '
            'learning rate disturbs less'
        )


class OwnLoss:
    """The student's own loss, as MMEngine adds it up, and what comes to it later."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def __call__(self, losses: dict) -> tuple[Tensor, Tensor | None]:
        """The sum; and by what it has grown for terms that are there anew."""
        names = {name for name in losses if 'loss' in name}
        new = names - self._names if self._names else set()
        self._names |= names
        total = _sum(losses, names)
        return total, total / _sum(losses, names - new) if new else None


@torch.no_grad()
def _sum(losses: dict, names: set[str]) -> Tensor:
    found = []
    for name in sorted(names):
        value = losses[name]
        parts = value if isinstance(value, list | tuple) else [value]
        found += [part.detach().float().mean() for part in parts]
    return torch.stack(found).sum()
