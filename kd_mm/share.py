"""The weight that sets itself: a link holds its share of the student's gradient."""

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.logging import MMLogger
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .diagnostics import HostCopy
from .errors import ConfigError
from .options import Fraction, Positive, Rule, at_least, checked
from .schedule import Progress

Part = Annotated[float, Rule('in (0, 1)', lambda x: 0 < x < 1)]
Interval = Annotated[int, at_least(2)]  # at 1 the student would never get anything

OWN = 10.0  # what enters a link, for its own modules, in parts of the task's gradient
BOUND = math.log(1e6)  # of the multiplier, both ways
SPEED = 0.5  # of the way to what was measured last
LIMIT = math.log(4.0)  # on one such step, but the first
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
    with a share gives the student anything: ``g_task`` is then the task's alone, also
    where features of links follow on each other in the network. The first step is one,
    and until a probe has succeeded the link's modules do not learn either, so nothing
    ever acts at a weight that nobody measured. Then ``m`` is known in closed form; its
    logarithm moves half of the way there in every later probe. Sums of squares are
    added up over ranks, so all have the same ``m``.

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
            gradients, in epochs; ``target`` goes on falling. Defaults to None, never.
        by_epoch (bool): Whether ``freeze_after`` is in epochs; iterations otherwise.
            Defaults to True.

    Attributes:
        weight (Tensor | None): The multiplier of the last step, a scalar.
        value (Tensor | None): The part that the last probe found at the multiplier of
            that time, a scalar; an overflow leaves the one before.
    """

    balance: Tensor
    measured: Tensor

    @checked
    def __init__(
        self,
        *,
        target: Part,
        interval: Interval = 50,
        falls_to: Fraction = 0.5,
        freeze_after: Positive | None = None,
        by_epoch: bool = True,
    ) -> None:
        super().__init__()
        self.full, self.interval, self.falls_to = target, interval, falls_to
        self.freeze_after, self.by_epoch = freeze_after, by_epoch
        # logarithms of |g_task| / |g_kd|, at the student's features and at the end of
        # the link, and whether they ever were found
        self.register_buffer('balance', torch.zeros(2))
        self.register_buffer('measured', torch.zeros(()))
        self.restart()

    @torch.no_grad()
    def restart(self) -> None:
        """Forget everything."""
        self.balance.zero_()
        self.measured.zero_()
        self.weight: Tensor | None = None
        self.value: Tensor | None = None
        self._steps = 0
        self._own: Tensor | None = None
        self._probe: _Probe | None = None
        self._doubt: HostCopy | None = None

    # ---- when and how much ----------------------------------------------------

    def check_time(self, progress: Progress) -> None:
        """Complain about a moment that training does not reach."""
        progress.check('share.freeze_after', self.freeze_after or 0, self.by_epoch)

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

    def count(self) -> None:
        """A step of the link begins that its student learns from."""
        self._steps += 1

    def hold(
        self, features: Sequence[Tensor], ratio: float, *, probe: bool = False
    ) -> list[Tensor]:
        """Return aliases to distil from, whose gradient arrives scaled.

        Args:
            features (Sequence[Tensor]): The student's side of the link.
            ratio (float): The wanted ``|m g_kd| / |g_task|``.
            probe (bool): Whether to measure, and let nothing arrive. Defaults to False.
        """
        balance = self.balance.float()
        student = (balance[0] + math.log(ratio)).clamp(-BOUND, BOUND)
        own = (balance[1] + math.log(OWN)).clamp(-BOUND, BOUND)
        known = self.measured > 0
        self.weight = torch.where(known, student.exp(), 0.0)
        self._own = own.exp()
        if not all(feature.requires_grad for feature in features):
            return list(features)
        if probe:
            self._probe = _Probe(len(features), self.weight, self._own)
            return [self._probe.alias(feature) for feature in features]
        self._own = torch.where(known, self._own, 0.0)
        rest = torch.where(known, (student - own).exp(), 0.0)
        return [_Scaled.apply(feature, rest) for feature in features]

    def end(
        self, features: list[Tensor], parameters: Iterable[nn.Parameter]
    ) -> list[Tensor]:
        """What the criterion gets of the student's side, to measure what it sends.

        Args:
            features (list[Tensor]): As the last stage left them.
            parameters (Iterable[nn.Parameter]): Of the link, which do not learn yet.
        """
        if self._probe is None:
            return features
        if self._steps <= SETTLED:
            self._probe.keep(parameters, self.measured > 0)
        return [self._probe.watch(feature) for feature in features]

    def own(self, loss: Tensor) -> Tensor:
        """A loss of the link, whose gradient is scaled for the link's own modules."""
        if self._own is None or not loss.requires_grad:
            return loss
        return _Scaled.apply(loss, self._own)

    @torch.no_grad()
    def settle(self) -> None:
        """Let the multiplier follow what the last probe found; on all ranks at once."""
        if self._probe is None:
            return
        probe, self._probe = self._probe, None
        squares = probe.squares(self.balance)
        all_reduce(squares)
        task, student, end = squares.sqrt()
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
        self.measured.copy_((fine | (self.measured > 0)).to(self.measured.dtype))
        held = student * probe.weight
        before = torch.zeros_like(held) if self.value is None else self.value
        self.value = torch.where(fine, held / (held + task), before)
        self._doubts()

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
        """How many steps the link has done: probes come by that."""
        return torch.tensor(self._steps)

    def set_extra_state(self, state: Tensor) -> None:
        self._steps, self._probe = int(state), None


class _Probe:
    """What the backward pass of one step says about one link.

    Args:
        levels (int): How many features the link has.
        weight (Tensor): The multiplier that this step would have had.
        own (Tensor): What the gradient is scaled with where it enters the link.
    """

    def __init__(self, levels: int, weight: Tensor, own: Tensor) -> None:
        self.levels, self.weight, self.own = levels, weight, own
        self._found: dict[str, list[Tensor]] = dict(task=[], student=[], end=[])
        self._handles: list[RemovableHandle] = []

    def _note(self, side: str, gradient: Tensor) -> None:
        self._found[side].append(gradient.detach().float().square().sum())

    def alias(self, feature: Tensor) -> Tensor:
        """Measure what arrives from the link, let nothing through, then the task's."""
        alias = feature.view_as(feature)

        def withhold(gradient: Tensor) -> Tensor:
            self._note('student', gradient)
            return torch.zeros_like(gradient)

        alias.register_hook(withhold)
        # autograd adds up all gradients of a tensor before its hooks run
        feature.register_hook(lambda gradient: self._note('task', gradient))
        return alias

    def watch(self, feature: Tensor) -> Tensor:
        """Measure what the criterion sends into the link."""
        end = feature.view_as(feature)
        if end.requires_grad:
            end.register_hook(lambda gradient: self._note('end', gradient))
        return end

    def keep(self, parameters: Iterable[nn.Parameter], learning: Tensor) -> None:
        """Let parameters of the link as they are, unless they are learning."""
        for parameter in parameters:
            if parameter.requires_grad:
                hook = parameter.register_hook(
                    lambda g: torch.where(learning.to(g.device), g, 0.0)
                )
                self._handles.append(hook)

    def squares(self, like: Tensor) -> Tensor:
        """``(3,)``: of the task, and of the link's at both ends of it, not scaled.

        0 without a backward pass.
        """
        for handle in self._handles:
            handle.remove()
        counts = {side: len(found) for side, found in self._found.items()}
        if not counts['task'] == counts['student'] == self.levels or not counts['end']:
            return like.new_zeros(3, dtype=torch.float32)
        task, student, end = (
            torch.stack(found).sum() for found in self._found.values()
        )
        scale = self.own.square()
        return torch.stack([task, student / scale, end / scale])


class _Scaled(torch.autograd.Function):
    """The same tensor, whose gradient is multiplied.

    In fp32, because fp16 ends at 65504. No hook, so that a compiler sees through it.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        scaled = gradient.float() * weight.to(gradient.device)
        return scaled.to(gradient.dtype), None


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
