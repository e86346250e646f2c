"""Numbers that tell whether distillation does something sensible."""

import torch
from mmengine.logging import MMLogger
from torch import Tensor


class GradientShare:
    """Share of the distillation in the gradient that reaches the tapped features.

    ``||g_kd|| / (||g_kd|| + ||g_task||)`` over all levels of a link, 0 when the link
    does nothing and 1 when it drowns the task. Our choice. Read off in the backward
    pass that happens anyway, on the steps where :meth:`watch` is called.

    Attributes:
        value (Tensor | None): The last share, a scalar without gradient.
    """

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def watch(self, features: list[Tensor]) -> list[Tensor]:
        """Return aliases to distil from, and measure in the coming backward pass."""
        if not all(feature.requires_grad for feature in features):
            return features
        squares: list[tuple[Tensor, Tensor]] = []
        return [self._alias(f, squares, len(features)) for f in features]

    def _alias(self, feature: Tensor, squares: list, levels: int) -> Tensor:
        alias = feature.view_as(feature)
        seen: list[Tensor] = []
        alias.register_hook(lambda gradient: seen.append(gradient.detach()))

        def compare(total: Tensor) -> None:
            # autograd adds up all gradients of a tensor before its hooks run
            if not seen:
                return
            ours = seen.pop().float()
            task = total.detach().float() - ours
            squares.append((ours.square().sum(), task.square().sum()))
            if len(squares) == levels:
                kd, rest = (
                    torch.stack(s).sum().sqrt() for s in zip(*squares, strict=True)
                )
                self.value = kd / (kd + rest + 1e-12)

        feature.register_hook(compare)
        return alias


class HostCopy:
    """A device tensor on its way to the host, to be read a step later.

    The copy does not wait for the device; by the next step it has long arrived.

    Args:
        tensor (Tensor): Any tensor; detached.
    """

    def __init__(self, tensor: Tensor) -> None:
        tensor = tensor.detach()
        self._event = None
        if tensor.device.type == 'cpu':
            self._host = tensor
            return
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._host.copy_(tensor, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record()

    def read(self) -> Tensor:
        """The values; waits only if the device is that far behind."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._host

    def __deepcopy__(self, memo: dict) -> 'HostCopy':
        return HostCopy(self.read().clone())


class NonFiniteWatch:
    """Reports the link whose loss became NaN or infinite.

    On an accelerator the flags are read one step later, so that no step is held up.
    """

    reports = 5  # a broken run need not fill the log

    def __init__(self) -> None:
        self._pending: tuple[list[str], HostCopy] | None = None

    def __call__(self, out: dict[str, Tensor]) -> None:
        self._report()
        names = [name for name in out if 'loss' in name]
        if not names:
            return
        flags = torch.stack([out[name].detach().isfinite().all() for name in names])
        self._pending = names, HostCopy(flags)
        if flags.device.type == 'cpu':
            self._report()

    def _report(self) -> None:
        if self._pending is None or self.reports <= 0:
            return
        (names, copy), self._pending = self._pending, None
        host = copy.read()
        if bool(host.all()):
            return
        self.reports -= 1
        bad = [
            name for name, fine in zip(names, host.tolist(), strict=True) if not fine
        ]
        MMLogger.get_current_instance().error(
            f'{", ".join(bad)} is NaN or infinite; see "NaN" in docs/troubleshooting.md'
        )
