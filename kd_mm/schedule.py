"""How the weight of a link changes while training goes on."""

import math
from dataclasses import dataclass
from typing import Literal

from mmengine.logging import MessageHub

from .errors import ConfigError
from .options import NonNegative, checked


@dataclass(frozen=True)
class Progress:
    """Where training is: epochs and iterations done, and how many there will be."""

    epoch: float = 0.0
    iter: float = 0.0
    max_epochs: float | None = None
    max_iters: float | None = None

    @classmethod
    def now(cls) -> 'Progress':
        """Read from MMEngine's message hub, which its Runner keeps up to date.

        Nothing is stored here, so a resumed run continues its schedule exactly.
        """
        info = MessageHub.get_current_instance().runtime_info
        done, total = info.get('iter', 0), info.get('max_iters')
        epochs = info.get('max_epochs')
        epoch = done * epochs / total if epochs and total else info.get('epoch', 0)
        return cls(epoch, done, epochs, total)


class Schedule:
    """Factor on everything a link adds to the loss. Our choice.

    Rises from 0 to 1 over ``warmup``, stays, falls to 0 over the last ``decay`` before
    ``stop``. While the factor is 0 the link does not run; when no link runs, neither
    does the teacher.

    Args:
        warmup (float): Length of the rise, in epochs. Defaults to 0.
        decay (float): Length of the fall, in epochs. Defaults to 0.
        stop (float, optional): When the link ends, in epochs. Defaults to None, the
            end of training.
        shape (str): 'linear' or 'cosine' rise and fall. Defaults to 'linear'.
        by_epoch (bool): Whether the numbers are epochs; iterations otherwise.
            Defaults to True.

    Raises:
        ConfigError: If a length is negative, or ``stop`` comes before the warm-up ends.
    """

    @checked
    def __init__(
        self,
        *,
        warmup: NonNegative = 0,
        decay: NonNegative = 0,
        stop: NonNegative | None = None,
        shape: Literal['linear', 'cosine'] = 'linear',
        by_epoch: bool = True,
    ) -> None:
        if stop is not None and stop < warmup:
            raise ConfigError(
                'schedule.stop comes before the warm-up ends, got '
                f'warmup={warmup}, stop={stop}'
            )
        self.warmup, self.decay, self.stop = warmup, decay, stop
        self.shape, self.by_epoch = shape, by_epoch

    def factor(self, progress: Progress) -> float:
        """The factor at ``progress``, in [0, 1]."""
        now = progress.epoch if self.by_epoch else progress.iter
        end = progress.max_epochs if self.by_epoch else progress.max_iters
        end = end if self.stop is None else self.stop
        if self.stop is not None and now >= self.stop:
            return 0.0
        factor = min(1.0, now / self.warmup) if self.warmup else 1.0
        if self.decay and end is not None:
            factor = min(factor, max(0.0, (end - now) / self.decay))
        return (
            factor if self.shape == 'linear' else 0.5 - 0.5 * math.cos(math.pi * factor)
        )
