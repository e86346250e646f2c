"""What a backward pass says about a link, and how the gradient in it is scaled."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class Probe:
    """What the backward pass of one step says about one link.

    Args:
        weight (Tensor): The multiplier that this step would have had.
        own (Tensor): What the gradient is scaled with where it enters the link.
    """

    def __init__(self, weight: Tensor, own: Tensor) -> None:
        self.weight, self.own = weight, own
        self._found: dict[str, list[Tensor]] = dict(dot=[], task=[], student=[], end=[])
        self._handles: list[RemovableHandle] = []

    def _note(self, side: str, gradient: Tensor) -> None:
        self._found[side].append(gradient.detach().float().square().sum())

    def aliases(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Measure what arrives from the link, let nothing through, then the task's.

        A feature that is tapped twice is measured once; one that the link sends
        nothing to does not count.
        """
        return once(self._alias, features)

    def _alias(self, feature: Tensor) -> Tensor:
        alias = feature.view_as(feature)
        ours: list[Tensor] = []

        def withhold(gradient: Tensor) -> Tensor:
            self._note('student', gradient)
            ours.append(gradient.detach().float())
            return torch.zeros_like(gradient)

        def compare(gradient: Tensor) -> None:
            # autograd adds up all gradients of a tensor before its hooks run
            if ours:
                self._note('task', gradient)
                self._found['dot'].append((ours.pop() * gradient.detach()).sum())

        alias.register_hook(withhold)
        on_gradient(feature, compare)
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
        """``(4,)``: of the task, and of the link's at both ends of it, not scaled.

        Before them the product of task and link at the features. 0 without a backward
        pass.
        """
        for handle in self._handles:
            handle.remove()
        if not all(self._found.values()):
            return like.new_zeros(4, dtype=torch.float32)
        dot, task, student, end = (
            torch.stack(found).sum() for found in self._found.values()
        )
        own = self.own
        return torch.stack([dot / own, task, student / own**2, end / own**2])


def copy_of(tensor: Tensor) -> Tensor:
    """A copy of what will be overwritten in place, for :func:`on_gradient`.

    The network goes on with the tensor itself, so the copy sees nothing of the task's
    gradient. A hook that is there before the tensor changes gets the gradient of what
    it was, the copy's part in it.
    """
    copy: Any = tensor.clone()
    if tensor.requires_grad:
        hooks: list[Callable[[Tensor], None]] = []
        copy.hooks_of_source = hooks

        def tell(gradient: Tensor) -> None:
            for hook in hooks:
                hook(gradient)

        tensor.register_hook(tell)
    return copy


def on_gradient(feature: Tensor, hook: Callable[[Tensor], None]) -> None:
    """Call ``hook`` with a tapped feature's whole gradient, the task's included."""
    hooks: list | None = getattr(feature, 'hooks_of_source', None)
    if hooks is None:
        feature.register_hook(hook)
    else:
        hooks.append(hook)


def once(make: Callable[[Tensor], Tensor], features: Sequence[Tensor]) -> list[Tensor]:
    """What is made of every feature, the same for one that comes twice."""
    made = {
        id(feature): make(feature) for feature in {id(f): f for f in features}.values()
    }
    return [made[id(feature)] for feature in features]


class Scaled(torch.autograd.Function):
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
