"""The weight that sets itself: a link holds its share of the student's gradient."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.logging import MMLogger
from torch import Tensor, nn

from .diagnostics import HostCopy
from .errors import ConfigError
from .guard import Guard
from .options import Fraction, NonNegative, Positive, Rule, at_least, checked
from .probe import Probe, Scaled
from .schedule import Progress

Part = Annotated[float, Rule('in (0, 1)', lambda x: 0 < x < 1)]
Interval = Annotated[int, at_least(2)]  # at 1 the student would never get anything

OWN = 10.0  # what enters a link, for its own modules, in parts of the task's gradient
BOUND = math.log(1e6)  # of the multiplier, both ways
SPEED = 0.5  # of the way to what was measured last
LIMIT = math.log(4.0)  # on one such step, but the first
AGREES = 0.1  # cosine of the two gradients; see docs/results/automatic.md
SETTLED = 16  # steps of a link in which its modules' own factor is found


class Share(nn.Module):
    """Holds a link's part of the gradient at the student's features. Our choice.

    The part is ``|m g_kd| / (|m g_kd| + |g_task|)`` over all levels of the link. The
    multiplier ``m`` acts on the gradient alone; losses in the log stay as they are.

    The gradient is scaled in two places. Where it leaves the link for the student's
    features it has the wanted part. Where it enters, between the criterion and the
    last stage, it has ten times the task's in the first steps, which is what weights
    chosen by hand came to, and the factor of then from there on: adapters and other
    modules of the link learn at a pace of their own, however little of it they let
    through. So neither side depends on the criterion's weight, and a part that suits
    the student breaks no module of the link. Extra losses of stages are scaled with
    the criterion's.

    The norms are read off in the backward pass of a *probe*, a step in which no link
    with a share gives the student anything on its labelled images: ``g_task`` is then
    the task's alone, also where features of links follow on each other in the network.
    The first step is one, and until a probe has succeeded the link's modules do not
    learn either, so nothing ever acts at a weight that nobody measured. Then ``m`` is
    known in closed form; its logarithm moves half of the way there in every later
    probe. Sums of squares are added up over ranks, so all have the same ``m``.

    Links that meet on a feature have parts of one whole: the task keeps what their
    targets leave.

    Args:
        target (float): The part, in (0, 1). The link's schedule scales it.
        interval (int): A probe every so many steps of the link. At first they come
            more often: every other step, and then four to eight times in twice as many
            steps. Defaults to 50.
        falls_to (float): What is left of ``target`` at the end of training; it falls
            along half a cosine, where the length of training is known. Bounds what a
            teacher that is of no use can do. Defaults to 0.5.
        freeze_after (float, optional): When the multiplier stops following the
            gradients, in epochs; ``target`` goes on falling, and what ``tolerance`` has
            left stays as it is. Defaults to None, never.
        stop_after (float, optional): When the link is judged, once, in epochs: it
            ends, with a line in the log, if its gradient and the task's do not point
            the same way (``agreement`` below 0.1). Defaults to None, never.
        tolerance (float, optional): How far the student's own loss may rise above what
            it was in the first steps with the link, as a part of it, before the link
            takes less; see :class:`kd_mm.guard.Guard`. Defaults to None: as far as it
            does, and a line in the log.
        by_epoch (bool): Whether ``freeze_after`` and ``stop_after`` are in epochs;
            iterations otherwise. Defaults to True.

    Attributes:
        agreement (Tensor): The cosine of the two gradients, averaged over the last
            five probes or so, a scalar. About 0 with a teacher that knows nothing,
            and for some links with any.
        ended (bool): Whether the link was judged, and is over: it runs no more.
        weight (Tensor | None): The multiplier of the last step, a scalar.
        value (Tensor | None): The part that the last probe found at the multiplier of
            that time, a scalar; an overflow leaves the one before.
    """

    balance: Tensor
    measured: Tensor
    agreement: Tensor
    stopped: Tensor

    @checked
    def __init__(
        self,
        *,
        target: Part,
        interval: Interval = 50,
        falls_to: Fraction = 0.5,
        freeze_after: Positive | None = None,
        stop_after: Positive | None = None,
        tolerance: NonNegative | None = None,
        by_epoch: bool = True,
    ) -> None:
        super().__init__()
        self.guard = Guard(tolerance=tolerance)
        self.full, self.interval, self.falls_to = target, interval, falls_to
        self.freeze_after, self.stop_after = freeze_after, stop_after
        self.by_epoch = by_epoch
        # logarithms of |g_task| / |g_kd|, at the student's features and at the end of
        # the link, and whether they ever were found
        self.register_buffer('balance', torch.zeros(2))
        self.register_buffer('measured', torch.zeros(()))
        self.register_buffer('agreement', torch.zeros(()))
        self.register_buffer('stopped', torch.zeros(()))
        self.restart()

    @torch.no_grad()
    def restart(self) -> None:
        """Forget everything."""
        for buffer in self.buffers(recurse=False):
            buffer.zero_()
        self.guard.restart()
        self.weight: Tensor | None = None
        self.value: Tensor | None = None
        self._steps, self._judged, self.ended = 0, False, False
        self._measures = False  # in the pass that goes on
        self._verdict: HostCopy | None = None
        self._own: Tensor | None = None
        self._probe: Probe | None = None
        self._doubt: HostCopy | None = None

    # ---- when and how much ----------------------------------------------------

    def check_time(self, progress: Progress) -> None:
        """Complain about a moment that training does not reach."""
        for key in ('freeze_after', 'stop_after'):
            progress.check(f'share.{key}', getattr(self, key) or 0, self.by_epoch)

    def target(self, progress: Progress) -> float:
        """The part that is held at this moment of training."""
        if not progress.max_iters:
            return self.full
        done = min(1.0, progress.iter / progress.max_iters)
        left = 0.5 + 0.5 * math.cos(math.pi * done)
        return self.full * (self.falls_to + (1 - self.falls_to) * left)

    def due(self, progress: Progress) -> bool:
        """Whether the coming step of the link should be a probe."""
        done = self._steps
        if self.frozen(progress):
            return False
        return done % min(self.interval, max(2, 2 ** done.bit_length() // 8)) == 0

    def frozen(self, progress: Progress) -> bool:
        """Whether the multiplier follows the gradients no longer."""
        if self.freeze_after is None or self._steps < SETTLED:
            return False
        return progress.at(self.by_epoch) >= self.freeze_after

    # ---- one step -------------------------------------------------------------

    def hear(self, losses: Mapping[str, Any]) -> None:
        """Take note of the student's own losses in a step that it learns from."""
        self.guard.hear(losses, settled=self._steps >= SETTLED)

    def count(self) -> None:
        """A step of the link begins that its student learns from."""
        self._steps += 1

    def hold(
        self,
        features: Sequence[Tensor],
        ratio: float,
        *,
        probe: bool = False,
        frozen: bool = False,
    ) -> list[Tensor]:
        """Return aliases to distil from, whose gradient arrives scaled.

        Args:
            features (Sequence[Tensor]): The student's side of the link.
            ratio (float): The wanted ``|m g_kd| / |g_task|``.
            probe (bool): Whether a share measures, so that nothing may arrive.
                Defaults to False.
            frozen (bool): Whether this one does not. Defaults to False.
        """
        balance = self.balance.float()
        left = self.guard.left.log()
        student = (balance[0] + math.log(ratio) + left).clamp(-BOUND, BOUND)
        own = (balance[1] + math.log(OWN)).clamp(-BOUND, BOUND)
        known = self.measured > 0
        acts = known & (self.stopped < 1)
        self.weight = torch.where(acts, student.exp(), 0.0)
        self._own = own.exp()
        self._measures = False
        if not all(feature.requires_grad for feature in features):
            return list(features)
        if probe and not frozen:
            self._measures = True
            self._probe = Probe(self.weight, self._own)
            return self._probe.aliases(features)
        self._own = torch.where(known, self._own, 0.0)
        # others measure the task's gradient: what is frozen must not count as that
        acts = acts & (not probe)
        rest = torch.where(acts, (student - own).exp(), 0.0)
        return [Scaled.apply(feature, rest) for feature in features]

    def end(
        self, features: list[Tensor], parameters: Iterable[nn.Parameter]
    ) -> list[Tensor]:
        """What the criterion gets of the student's side, to measure what it sends.

        Args:
            features (list[Tensor]): As the last stage left them.
            parameters (Iterable[nn.Parameter]): Of the link, which do not learn yet.
        """
        if self._probe is None or not self._measures:
            return features
        if self._steps <= SETTLED:
            self._probe.keep(parameters, self.measured > 0)
        return [self._probe.watch(feature) for feature in features]

    def own(self, loss: Tensor) -> Tensor:
        """A loss of the link, whose gradient is scaled for the link's own modules."""
        if self._own is None or not loss.requires_grad:
            return loss
        return Scaled.apply(loss, self._own)

    @torch.no_grad()
    def settle(self) -> None:
        """Let the multiplier follow what the last probe found; on all ranks at once."""
        if self._probe is None:
            return
        probe, self._probe = self._probe, None
        sums = torch.cat([probe.squares(self.balance), self.guard.heard])
        all_reduce(sums)
        squares, heard = sums.split([4, 3])
        self.guard.follow(heard / get_world_size(), settled=self._steps > SETTLED)
        dot = squares[0]
        task, student, end = squares[1:].sqrt()
        both = torch.stack([student, end])
        fine = task.isfinite() & (task > 0) & both.isfinite().all() & (both > 0).all()
        wanted = (task / both).log().clamp(-BOUND, BOUND)
        way = wanted - self.balance.float()
        bounded = (SPEED * way).clamp(-LIMIT, LIMIT)
        known = self.measured > 0
        way = torch.where(known, bounded, way)
        if self._steps > SETTLED:
            way[1] = torch.where(known, 0.0, way[1])
        self.balance += torch.where(fine, way, 0.0).to(self.balance.dtype)
        # what enters the link is too large for its precision: less of it next time
        over = task.isfinite() & ~both.isfinite().all() & ~known
        self.balance[1] -= torch.where(over, LIMIT, 0.0).to(self.balance.dtype)
        cosine = (dot / (task * student)).nan_to_num().to(self.agreement.dtype)
        seen = torch.where(known, self.agreement.lerp(cosine, 0.2), cosine)
        self.agreement.copy_(torch.where(fine, seen, self.agreement))
        self.measured.copy_((fine | (self.measured > 0)).to(self.measured.dtype))
        held = student * probe.weight
        before = torch.zeros_like(held) if self.value is None else self.value
        self.value = torch.where(fine, held / (held + task), before)
        self._doubts()

    @torch.no_grad()
    def judge(self, progress: Progress, link: str) -> None:
        """End a link that pulls elsewhere, and say so without waiting for the device.

        Args:
            progress (Progress): Where training is.
            link (str): Its name, for the log.
        """
        if self._verdict is not None:
            (stopped, cosine), self._verdict = self._verdict.read().tolist(), None
            self.ended = bool(stopped)
            what = 'points elsewhere than' if stopped else 'goes along with'
            MMLogger.get_current_instance().info(
                f"links.{link}: its gradient {what} the task's (cosine {cosine:.3f}) "
                f'after stop_after={self.stop_after:g}: the link '
                + ('ends' if stopped else 'goes on')
            )
        self.guard.tell(link)
        if self.stop_after is None or self._judged:
            return
        if progress.at(self.by_epoch) >= self.stop_after and self._steps > SETTLED:
            self._judged = True
            self.stopped.copy_(self.agreement < AGREES)
            self._verdict = HostCopy(torch.stack([self.stopped, self.agreement]))

    def _doubts(self) -> None:
        """Say once, without waiting for the device, that nothing could be measured."""
        if self._doubt is None and SETTLED <= self._steps <= 2 * SETTLED:
            self._doubt = HostCopy(self.measured)
        elif self._doubt is not None and self._steps > 2 * SETTLED:
            found, self._doubt = self._doubt.read(), None
            if not found:
                MMLogger.get_current_instance().warning(
                    f'share={self.full:g} of a link has no effect: in its first '
                    f'{SETTLED} steps the gradient of the task or of the link was 0 '
                    'or not finite at the tapped features, so the link gives the '
                    'student nothing; tap what the task learns through, or set '
                    'criterion.weight instead of share'
                )

    # ---- checkpoints ----------------------------------------------------------

    def _save_to_state_dict(self, *args, **kwargs) -> None:
        # With several ranks only one may be saving: DistillHook has settled before.
        if get_world_size() == 1:
            self.settle()
        super()._save_to_state_dict(*args, **kwargs)

    def get_extra_state(self) -> Tensor:
        """How many steps the link has done, and whether it was judged."""
        return torch.tensor([self._steps, int(self._judged)])

    def set_extra_state(self, state: Tensor) -> None:
        steps, judged = state.tolist()
        self._steps, self._judged, self._probe = steps, bool(judged), None
        self.ended = bool(self.stopped)  # buffers are loaded first


def ratios(
    targets: dict[str, float], features: dict[str, list[Tensor]]
) -> dict[str, float]:
    """How large each link's gradient shall be, in parts of the task's.

    Args:
        targets (dict[str, float]): Parts of the links.
        features (dict[str, list[Tensor]]): What they tap. Where two tap one tensor,
            the task keeps what all of them leave.

    Raises:
        ConfigError: If nothing is left for the task.
    """
    tapped = {name: {id(f) for f in features[name]} for name in targets}
    found = {}
    for name, target in targets.items():
        meeting = [other for other in targets if tapped[name] & tapped[other]]
        left = 1 - sum(targets[other] for other in meeting)
        if left < 1e-6:
            raise ConfigError(
                f'links {", ".join(meeting)} tap one feature of the student, and their '
                f'shares ({" + ".join(f"{targets[o]:g}" for o in meeting)}) leave '
                'nothing of its gradient to the task: make them smaller'
            )
        found[name] = target / left
    return found
