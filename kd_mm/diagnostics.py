"""Numbers that tell whether distillation does something sensible."""

from typing import Any

import torch
from mmengine.logging import MMLogger
from torch import Tensor

from .errors import ConfigError
from .probe import on_gradient, once


class GradientShare:
    """Share of the distillation in the gradient that reaches the tapped features.

    ``||g_kd|| / (||g_kd|| + ||g_task||)`` over the features of a link that it sends
    anything to, each once; 0 when the link does nothing and 1 when it drowns the task.
    Our choice. Read off in the backward pass that happens anyway, often at first and
    sparsely later.

    Attributes:
        value (Tensor | None): The last share, a scalar without gradient; a gradient
            that overflowed leaves the one before.
    """

    def __init__(self) -> None:
        self.value: Tensor | None = None
        self._steps = 0

    def watch(self, features: list[Tensor], interval: int = 1) -> list[Tensor]:
        """Return aliases to distil from, and measure in the coming backward pass.

        Args:
            features (list[Tensor]): The student's side of a link, every step.
            interval (int): Measure every so many steps, and in steps 0, 1, 2, 4, 8 ...
                of the link, so that short runs and late links show more than one
                number. Defaults to 1.
        """
        done, self._steps = self._steps, self._steps + 1
        if done % interval and done & (done - 1):
            return features
        if not all(feature.requires_grad for feature in features):
            return features
        squares: list[tuple[Tensor, Tensor]] = []
        before = torch.nan if self.value is None else self.value
        return once(lambda f: self._alias(f, squares, before), features)

    def _alias(self, feature: Tensor, squares: list, before: Tensor | float) -> Tensor:
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
            # the last level to come makes it whole; which one that is nobody knows
            kd, rest = (torch.stack(s).sum().sqrt() for s in zip(*squares, strict=True))
            both = kd + rest
            share = kd / (both + 1e-12)
            self.value = torch.where(both.isfinite(), share, before)

        on_gradient(feature, compare)
        return alias


class HostCopy:
    """A device tensor on its way to the host, to be read a step later.

    The copy does not wait for the device; by the next step it has long arrived. A
    backend without pinned memory or events (MPS, some NPUs) waits for a plain copy.

    Args:
        tensor (Tensor): Any tensor; detached.
    """

    def __init__(self, tensor: Tensor) -> None:
        tensor = tensor.detach()
        self._event = None
        if tensor.device.type == 'cpu':
            self._host = tensor
            return
        try:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            if tensor.device.type == 'cuda':  # torch.Event needs PyTorch 2.4
                event = torch.cuda.Event()
                event.record(torch.cuda.current_stream(tensor.device))
            else:
                event = torch.Event(tensor.device)
                event.record()
        except (RuntimeError, AttributeError, NotImplementedError):
            self._host = tensor.cpu()
        else:
            self._event = event

    def read(self) -> Tensor:
        """The values; waits only if the device is that far behind."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._host

    def __getstate__(self) -> dict:  # for deepcopy and pickle
        return dict(_host=self.read().clone(), _event=None)


class NonFiniteWatch:
    """Tells which losses became NaN or infinite, and ends a run that is lost.

    On an accelerator the flags are read one step later, so that no step is held up.

    Args:
        stop (bool): Whether to raise once that has lasted for ``patience`` steps.
    """

    reports = 5  # a broken run need not fill the log
    patience = 5  # steps in a row: fp16 may overflow on one batch and not on the next

    def __init__(self, *, stop: bool) -> None:
        self.stop = stop
        self._pending: tuple[list[str], HostCopy] | None = None
        self._lasted = 0

    def __call__(self, losses: dict[str, Any]) -> None:
        """Look at one step's log entries; those with "loss" in their names count.

        Raises:
            ConfigError: Naming the losses, when nothing can be learned any more.
        """
        self._report()
        names: list[str] = []
        values: list[Tensor] = []
        for name, value in losses.items():
            parts = value if isinstance(value, (list, tuple)) else [value]
            for part in parts if 'loss' in name else []:
                if isinstance(part, Tensor):
                    values.append(part.detach().flatten().float())
                    names += [name] * part.numel()
        if not names:
            return
        flags = torch.cat([v.to(values[0].device) for v in values]).isfinite()
        self._pending = names, HostCopy(flags)
        if flags.device.type == 'cpu':
            self._report()

    def _report(self) -> None:
        if self._pending is None:
            return
        (names, copy), self._pending = self._pending, None
        fine = copy.read().tolist()
        if all(fine):
            self._lasted = 0
            return
        self._lasted += 1
        bad = dict.fromkeys(n for n, ok in zip(names, fine, strict=True) if not ok)
        text = f'{", ".join(bad)} is NaN or infinite'
        see = 'see "NaN" in docs/troubleshooting.md'
        if self.stop and self._lasted >= self.patience:
            raise ConfigError(
                f'{text}, in {self.patience} steps in a row: training ends here, '
                f'checkpoints of before are good; {see} (model.stop_on_nan=False '
                'goes on all the same)'
            )
        if self.reports > 0:
            self.reports -= 1
            MMLogger.get_current_instance().error(f'{text}; {see}')
