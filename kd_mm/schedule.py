"""How far training is, and how the weight of a link changes with it."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal
from weakref import WeakKeyDictionary

from mmengine.logging import MessageHub
from mmengine.runner import BaseLoop, EpochBasedTrainLoop

from .errors import ConfigError
from .options import NonNegative, Positive, checked

NOTES = 20


@dataclass(frozen=True)
class Progress:
    """Where training is: epochs and iterations done, and how many there will be.

    Everything that counts in epochs or iterations reads them here. An epoch is one
    pass over the data, whichever loop runs: MMEngine's iteration-based loop itself
    speaks of one epoch that never ends.

    Attributes:
        epoch (float, optional): None where the data have no length.
        iter (float): Iterations done.
        max_epochs (float, optional): None where unknown.
        max_iters (float, optional): None where unknown.
        what (str): What is over then, for messages. Defaults to 'training'.
    """

    epoch: float | None = 0.0
    iter: float = 0.0
    max_epochs: float | None = None
    max_iters: float | None = None
    what: str = 'training'

    @classmethod
    def of(cls, runner: Any, *, ahead: int = 0) -> 'Progress':
        """Where the training of a Runner or FlexibleRunner is.

        Nothing is stored here, so a resumed run continues its schedule exactly.

        Args:
            runner (Runner): Whose train loop is asked.
            ahead (int): So many iterations later. Hooks after an iteration meet a
                loop that has not counted it yet. Defaults to 0.
        """
        done, total = runner.iter + ahead, runner.max_iters or None
        length = epoch_length(runner.train_loop)
        if length is None:
            return cls(None, done, None, total)
        return cls(done / length, done, total / length if total else None, total)

    @classmethod
    def now(cls) -> 'Progress':
        """Read from MMEngine's current message hub, for training without a Runner."""
        info = MessageHub.get_current_instance().runtime_info
        done, total = info.get('iter', 0), info.get('max_iters')
        epochs = info.get('max_epochs')
        epoch = done * epochs / total if epochs and total else info.get('epoch', 0)
        return cls(epoch, done, epochs, total)

    def at(self, by_epoch: bool) -> float:
        """Epochs or iterations done; :meth:`check` has refused what cannot count."""
        if not by_epoch:
            return self.iter
        assert self.epoch is not None
        return self.epoch

    def end(self, by_epoch: bool) -> float | None:
        """Epochs or iterations of the whole training; None where unknown."""
        return self.max_epochs if by_epoch else self.max_iters

    def check(
        self, option: str, moment: float, by_epoch: bool, *, begins: bool = False
    ) -> None:
        """Refuse a moment that training does not reach.

        Args:
            option (str): Its name, for the message.
            moment (float): When.
            by_epoch (bool): Whether that is in epochs; in iterations otherwise.
            begins (bool): Whether something has to happen after it, so that the very
                end is too late. Defaults to False.

        Raises:
            ConfigError: If it is later, or in epochs where there are none.
        """
        if not moment:
            return
        if by_epoch and self.epoch is None:
            raise ConfigError(
                f'{option}={moment:g} counts epochs, and the training data have no '
                'length to derive them from; say by_epoch=False and count iterations'
            )
        end = self.end(by_epoch)
        if end is None or moment < end or (moment == end and not begins):
            return
        unit = 'epoch' if by_epoch else 'iteration'
        least = math.floor(moment) + 1 if begins else math.ceil(moment)
        longer = 'train for' if self.what == 'training' else 'let it last'
        hint = ' (by_epoch=False counts iterations)' if by_epoch else ''
        raise ConfigError(
            f'{option}={moment:g} is never reached in {end:g} {unit}{"s" * (end != 1)} '
            f'of {self.what}: {longer} at least {least} {unit}{"s" * (least != 1)}, or '
            f'make it smaller{hint}'
        )


def passed(runner: Any, every: float, *, by_epoch: bool = True) -> bool:
    """Whether the iteration just done completes a multiple of ``every``.

    For hooks after an iteration, where the loop has not counted it yet.
    """
    before, after = (Progress.of(runner, ahead=i).at(by_epoch) for i in (0, 1))
    return int(after / every) > int(before / every)


def takes_note(runner: Any) -> bool:
    """Whether the course of training is noted after the iteration just done.

    After every pass over the data; an iteration-based run, which may be one pass or
    less, makes at least :data:`NOTES`.
    """
    loop = runner.train_loop
    every = epoch_length(loop) or math.inf
    if not isinstance(loop, EpochBasedTrainLoop):
        every = min(every, (runner.max_iters or 1000) / NOTES)
    return passed(runner, max(1, int(every)), by_epoch=False)


_LENGTHS: WeakKeyDictionary[Any, float | None] = WeakKeyDictionary()


def epoch_length(loop: Any) -> float | None:
    """Iterations in which every training image is seen once.

    Args:
        loop (BaseLoop): A train loop. It is asked once: samplers that group images may
            have to go through all of them to know their length.

    Returns:
        float | None: None if the data have no length.
    """
    if isinstance(loop, EpochBasedTrainLoop):
        return loop.max_iters / loop.max_epochs if loop.max_epochs else None
    if not isinstance(loop, BaseLoop):
        return None
    if loop not in _LENGTHS:
        _LENGTHS[loop] = _pass_length(loop.dataloader)
    return _LENGTHS[loop]


def _pass_length(loader: Any) -> float | None:
    sampler = getattr(loader, 'sampler', None)
    sampler = getattr(getattr(loader, 'batch_sampler', None), 'sampler', sampler)
    try:
        length: float = len(loader)
        # infinite samplers count the images of all ranks, though each sees its share
        if sampler is not None and len(sampler) == len(loader.dataset):
            length /= getattr(sampler, 'world_size', 1)
    except TypeError:  # a stream
        return None
    return length or None


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
        stop: Positive | None = None,
        shape: Literal['linear', 'cosine'] = 'linear',
        by_epoch: bool = True,
    ) -> None:
        if stop is not None and stop < warmup:
            raise ConfigError(
                'schedule.stop comes before the warm-up ends, got '
                f'warmup={warmup}, stop={stop}'
            )
        if shape != 'linear' and not (warmup or decay):
            raise ConfigError(
                f'schedule.shape={shape!r} has no effect without a warmup or a decay'
            )
        self.warmup, self.decay, self.stop = warmup, decay, stop
        self.shape, self.by_epoch = shape, by_epoch

    def check(self, progress: Progress) -> None:
        """Refuse what never arrives.

        Raises:
            ConfigError: If ``stop`` lies beyond the end of training, or there is no
                time between ``warmup`` and ``decay`` for the whole weight.
        """
        for key in ('stop', 'warmup', 'decay'):
            value = getattr(self, key)
            progress.check(f'schedule.{key}', value or 0, self.by_epoch)
        end = progress.end(self.by_epoch) if self.stop is None else self.stop
        if end is not None and self.warmup + self.decay > end:
            unit = 'epochs' if self.by_epoch else 'iterations'
            raise ConfigError(
                f'schedule.warmup={self.warmup:g} and schedule.decay={self.decay:g} '
                f'leave nothing of the {end:g} {unit} of the link, which never has its '
                'whole weight: make one of them smaller, or train longer'
            )

    def until_stop(self, progress: Progress) -> Progress:
        """The same training as if it ended where the link does."""
        whole = progress.end(self.by_epoch)
        if self.stop is None or whole is None:
            return progress
        epochs, iters = (
            None if end is None else end * self.stop / whole
            for end in (progress.max_epochs, progress.max_iters)
        )
        what = 'the link (schedule.stop)'
        return replace(progress, max_epochs=epochs, max_iters=iters, what=what)

    def factor(self, progress: Progress) -> float:
        """The factor at ``progress``, in [0, 1]."""
        if not self.warmup and not self.decay and self.stop is None:
            return 1.0
        now = progress.at(self.by_epoch)
        end = progress.end(self.by_epoch) if self.stop is None else self.stop
        if self.stop is not None and now >= self.stop:
            return 0.0
        factor = min(1.0, now / self.warmup) if self.warmup else 1.0
        if self.decay and end is not None:
            factor = min(factor, max(0.0, (end - now) / self.decay))
        return (
            factor if self.shape == 'linear' else 0.5 - 0.5 * math.cos(math.pi * factor)
        )
