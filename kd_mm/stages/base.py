"""What every stage of a link is."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..criteria.base import Criterion
from ..link import Link
from ..pair import LAYOUTS, FeaturePair, channels, check_layouts
from ..schedule import Progress

Lent = TypeVar('Lent')


class Borrowed(Generic[Lent]):
    """Modules of another network that a stage uses without owning them.

    No state dict, optimiser, ``.to()`` or walk over modules finds them, and copies of
    the stage share them.

    Args:
        it (object): A module, or modules in lists.
    """

    def __init__(self, it: Lent) -> None:
        self.it = it

    def __deepcopy__(self, memo: dict) -> 'Borrowed':
        return self


class Stage(nn.Module):
    """Changes a :class:`FeaturePair` on its way to the criterion.

    A stage is built from its config alone. Once, before training, :meth:`setup` sees
    a pair with the real channel counts of both networks and creates what depends on
    them; the same pair then goes through :meth:`forward`, so a stage that does not
    fit is found before the first iteration. Raise :class:`kd_mm.errors.ConfigError`
    (or any ``ValueError``) with what is wrong: the link adds its name and the shapes.

    The ``before_*`` and ``after_*`` methods and :meth:`note` are called by
    :class:`kd_mm.hooks.DistillHook` when a runner of MMEngine trains; a stage that
    needs the training loop overrides them. They must not ask the runner for epochs,
    which an iteration-based loop does not count: :class:`kd_mm.schedule.Progress` does.

    Attributes:
        mixes_channels (bool): Whether freshly initialised layers mix the student's
            channels here, so that behind them one order is as good as another.
        layouts (tuple[str, ...]): Those of :data:`kd_mm.pair.LAYOUTS` it works on;
            others are refused by :meth:`setup`. Defaults to all.
        same (str): What both sides of a level must share: nothing (``''``), the
            ``'layout'``, or the ``'size'`` too. Defaults to ``''``.
        instead (str): What to do about another layout, for the message.
        reads_labels (bool): Whether it reads the ground truth of the data samples.
        merges (bool): Whether it takes the levels of several teachers, one after the
            other, and leaves those of one.
        moves_channels (bool): Whether the teacher's channels are others behind it, or
            stand elsewhere.
        matches (str): What it brings together that each network chooses for itself,
            'queries' say. Taps on such things are refused unless the link's first
            stage matches them. Defaults to ``''``, nothing.

    Examples:
        >>> import torch
        >>> import kd_mm
        >>> class Halve(kd_mm.Stage):
        ...     def forward(self, pair):
        ...         pair.teacher = [teacher / 2 for teacher in pair.teacher]
        ...         return pair
        >>> pair = kd_mm.FeaturePair(
        ...     link='fpn', student=[torch.zeros(1, 2)], teacher=[torch.ones(1, 2)],
        ...     samples=[], image_size=(32, 32))
        >>> Halve()(pair).teacher
        [tensor([[0.5000, 0.5000]])]
    """

    mixes_channels = False
    layouts: tuple[str, ...] = LAYOUTS
    same = ''
    instead = ''
    moves_channels = False
    merges = False
    reads_labels = False
    matches = ''

    @property
    def ready(self) -> bool:
        """Whether the stage can work yet; until all can, the link does not run."""
        return True

    def connect(self, teacher: nn.Module) -> None:
        """Look at the teacher once, before :meth:`setup`.

        A module of it that is kept as an attribute would be saved, moved and trained:
        copy what is needed, or keep it :class:`Borrowed` and name it in
        :meth:`borrowed`.
        """

    def borrowed(self) -> Sequence[nn.Module]:
        """Modules of the teacher that :meth:`forward` runs; after :meth:`setup`."""
        return ()

    def see_prediction(self, features: Sequence[Tensor] | None) -> None:
        """What the student's taps give in prediction; a stage that matches is told.

        Before :meth:`setup`, whose pair holds what they give in training.

        Args:
            features (Sequence[Tensor], optional): None where that could not be tried.
        """

    def setup(self, pair: FeaturePair) -> None:
        """Create parameters from the shapes in ``pair``.

        A stage that overrides it calls this one first, which refuses what is not in
        ``layouts``.

        Raises:
            LayoutError: Names level, side and what helps.
        """
        check_layouts(
            type(self).__name__,
            self.layouts,
            pair,
            same=self.same,
            instead=self.instead,
        )

    def check(self, link: Link) -> None:
        """Complain about what surrounds the stage, once all of ``link`` is set up."""

    def unserved(self) -> str:
        """What does not happen in a training loop without DistillHook; '': nothing."""
        return ''

    def too_few(self, pair: FeaturePair) -> bool:
        """Whether the batch is too small for the stage to work on in training.

        Batch normalisation needs two values of every channel, and a single image may
        have one only: a pooled vector, a map of one cell.
        """
        single = any(
            feature.numel() < 2 * channels(feature)
            for feature in (*pair.student, *pair.teacher)
        )
        return single and any(
            isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
            for module in self.modules()
        )

    def forward(self, pair: FeaturePair) -> FeaturePair:
        """Return the changed pair; changing it in place is fine."""
        raise NotImplementedError

    def finish(self, pair: FeaturePair, criterion: Criterion) -> None:
        """Look at what the link's last stage left, just before the criterion does.

        Only for stages that measure or learn; what the criterion gets is not theirs to
        change any more.
        """

    def recall(self) -> None:
        """Read what the host keeps of the buffers, after somebody changed these.

        For stages that mirror a buffer on the host so that no step waits for the
        device. Called after a checkpoint was loaded if the stage registers
        :func:`recall_after_load`.
        """

    def check_time(self, progress: Progress) -> None:
        """Complain about moments that a training of this length does not reach."""

    def before_train(self, runner: Runner) -> None:
        """After the weights are loaded, before the first iteration."""

    def before_train_iter(self, runner: Runner, data_batch: dict) -> None:
        """Before every iteration."""

    def after_train_iter(self, runner: Runner) -> None:
        """After every iteration, the optimiser's step included."""

    def note(self, runner: Runner, progress: Progress) -> None:
        """After every pass over the data, or more often: keep what plots will show."""

    def suspect(self, logged: Mapping[str, np.ndarray]) -> str:
        """What is wrong with the stage by what it logged in a pass over the data.

        Said in the log, once, if it holds for two passes in a row.

        Args:
            logged (Mapping[str, np.ndarray]): Its diagnostics by the names that it gave
                them, finite values, at least one of each.

        Returns:
            str: A sentence with the remedy; '' where nothing is.
        """
        return ''


def recall_after_load(stage: Stage, incompatible: Any) -> None:
    """Hook for ``register_load_state_dict_post_hook``."""
    stage.recall()
