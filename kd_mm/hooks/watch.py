"""What only training shows to be wrong, said once while it can still be stopped."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner

from ..link import Link
from ..schedule import Progress
from ..utils.metrics import better_when_higher

FAINT, STRONG = 0.002, 0.998  # shares of the gradient that nobody means
LASTS = 2  # notes in a row before something is said
FALLS = 0.01  # part of the link's loss that goes in the first passes, at least
STEPS = 60  # of a link, before its loss is judged: an epoch may be a few steps
WORSE = 0.1  # part of the validation metric that may be lost,
POINTS = 0.03  # and how much of its whole range at least


class Watch:
    """Reads the log at the end of every pass over the data, and warns.

    It reads what MMEngine has on the host already, so no step waits for it, and it
    changes nothing. After a resume it starts anew.
    """

    def __init__(self) -> None:
        self._read: dict[str, int] = {}  # how much of every history is known
        self._losses: dict[str, list[np.ndarray]] = {}  # a link's, by note
        self._judged: set[str] = set()
        self._lasting: dict[str, int] = {}
        self._said: set[str] = set()
        self._best_before: dict[str, float] = {}
        self._worse = 0
        self._running = self._resumed = False

    def begin(self, runner: Runner) -> None:
        """What is in the log of an earlier run does not count."""
        for key, buffer in runner.message_hub.log_scalars.items():
            self._read[key] = len(buffer.data[0])
        # nothing may have been there to resume
        known = getattr(runner, '_resume', False), getattr(runner, '_has_loaded', False)
        self._resumed = all(known)

    def note(
        self, runner: Runner, links: Mapping[str, Link], progress: Progress
    ) -> None:
        """Look at what was logged since the last note.

        Args:
            runner (Runner): Its message hub and its logger.
            links (Mapping[str, Link]): The links by name.
            progress (Progress): Where training is.
        """
        hub = runner.message_hub.log_scalars
        news = {key: self._news(key, buffer) for key, buffer in hub.items()}
        for name, link in links.items():
            prefix = f'train/kd_{name}'
            full = link.factor(progress) > 0.999 and bool(link.criterion.weight)
            self._running = self._running or full
            if not full:
                continue
            if link.share is None:  # held links are where they are meant to be
                self._share(runner, name, news.get(f'{prefix}_gradient_share'))
            where = '_unlabelled' if link.images == 'unlabelled' else ''
            self._loss(runner, name, news.get(f'train/loss_kd_{name}{where}'))
            own = {
                key.removeprefix(f'{prefix}_'): values
                for key, values in news.items()
                if key.startswith(f'{prefix}_') and len(values)
            }
            for i, stage in enumerate(link.stages if own else ()):
                text = stage.suspect(own)
                if self._lasts(f'{name} stages[{i}]', bool(text)):
                    self._say(runner, f'{name} stages[{i}]', f'links.{name}: {text}')

    def validated(self, runner: Runner, metrics: Mapping[str, Any] | None) -> None:
        """Compare a validation with the one at which the links began.

        Args:
            runner (Runner): Its logger.
            metrics (Mapping): By name; those that are better when higher are known.
        """
        for key, value in (metrics or {}).items():
            number = isinstance(value, int | float) and math.isfinite(value)
            if number and better_when_higher(key):
                break
        else:
            return
        if not self._running or key not in self._best_before:
            before = self._best_before.get(key, -math.inf)
            self._best_before[key] = max(before, value)
            return
        start = self._best_before[key]
        lost = max(WORSE * start, POINTS * (100 if start > 1 else 1))
        self._worse = self._worse + 1 if value < start - lost else 0
        if self._worse >= LASTS:
            self._say(
                runner,
                'worse',
                f'{key} is {value:.4g}, and was {start:.4g} when the '
                f'{"run went on" if self._resumed else "links began"}: '
                'distillation harms, or the learning rate does; lower the weight',
            )

    def _news(self, key: str, buffer: HistoryBuffer) -> np.ndarray:
        values = buffer.data[0][self._read.get(key, 0) :]
        self._read[key] = len(buffer.data[0])
        return values[np.isfinite(values)]

    def _share(self, runner: Runner, name: str, values: np.ndarray | None) -> None:
        if values is None or not len(values):
            return
        where = f'links.{name}: its share of the gradient has been'
        low, high = float(values.min()), float(values.max())
        if self._lasts(f'faint {name}', high < FAINT):
            self._say(
                runner,
                f'faint {name}',
                f'{where} below {FAINT}: it does nothing; raise criterion.weight',
            )
        if self._lasts(f'strong {name}', low > STRONG):
            self._say(
                runner,
                f'strong {name}',
                f'{where} above {STRONG}: the task is drowned; lower criterion.weight',
            )

    def _loss(self, runner: Runner, name: str, values: np.ndarray | None) -> None:
        """Judged once, when the link has run for some passes and some steps."""
        if values is None or not len(values):
            return
        if name in self._judged or self._resumed:  # it may have fallen before
            return
        passes = self._losses.setdefault(name, [])
        passes.append(values)
        whole = np.concatenate(passes)
        if len(passes) <= LASTS or len(whole) < STEPS:
            return
        self._judged.add(name)
        first, last = whole[: len(whole) // 10].mean(), whole[-len(whole) // 4 :].mean()
        if last >= (1 - FALLS) * first:
            zero = 'is 0' if not whole.any() else 'has not fallen'
            self._say(
                runner,
                f'loss {name}',
                f'links.{name}: its loss {zero} since it began ({first:.4g}, now '
                f'{last:.4g}): nothing of the teacher arrives; ask '
                'python -m kd_mm doctor',
            )

    def _lasts(self, what: str, holds: bool) -> bool:
        self._lasting[what] = self._lasting.get(what, 0) + 1 if holds else 0
        return self._lasting[what] >= LASTS

    def _say(self, runner: Runner, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            runner.logger.warning(f'kd_mm: {text}')
