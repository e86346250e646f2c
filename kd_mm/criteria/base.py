"""What every criterion of a link is."""

import torch
from mmengine.runner import Runner
from torch import Tensor, nn

from ..errors import ConfigError
from ..options import NonNegative, checked
from ..pair import LAYOUTS, FeaturePair, channels_first, check_layouts, remedy

LOGITS = 'it compares logits: tap the layer that scores the classes, e.g. "head.fc"'

OTHER_CLASSES = (
    'the two networks score other classes: take a teacher of the same classes, or '
    'distil features, which lie before the head'
)


class Criterion(nn.Module):
    """Turns a :class:`FeaturePair` into one number: ``weight * sum over levels``.

    Subclasses implement :meth:`loss` for one level. It gets fp32 tensors of equal
    shape with autocast off, and returns a mean per element, so that weights depend
    neither on the image size nor on the batch size. Channels are always axis 1: maps
    come as ``(N, C, H, W)``, tokens as ``(N, C, L)``, vectors as ``(N, C)``.

    Args:
        weight (float): Weight of the whole link; 0 turns the link off.
            Defaults to 1.0.

    Attributes:
        weighted (bool): Whether a spatial weight map (DAM) can be applied.
        sees_channel_order (bool): Whether permuting the teacher's channels changes
            the loss. Where it does not, aligning channels (KCD) cannot help.
        layouts (tuple[str, ...]): Those of :data:`kd_mm.pair.LAYOUTS` it is defined
            on; others are refused. Defaults to all.
        same_layout (bool): Whether both sides must have the same. Defaults to True.
        same_shape (bool): Whether both sides of a level must have the same width and
            size. Defaults to True.
        instead (str): What to do about another layout, for the message.
        reads_labels (bool): Whether it reads the ground truth, or what else only
            images of the training set have.
        compares_classes (bool): Whether dim 1 are the classes of a head, which no
            adapter can bring together.

    Examples:
        >>> import torch
        >>> import kd_mm
        >>> class L1Loss(kd_mm.Criterion):
        ...     def loss(self, student, teacher, *, weight=None):
        ...         return (student - teacher).abs().mean()
        >>> pair = kd_mm.FeaturePair(
        ...     link='fpn', student=[torch.zeros(2, 8, 4, 4)],
        ...     teacher=[torch.ones(2, 8, 4, 4)], samples=[], image_size=(32, 32))
        >>> L1Loss(weight=2.0)(pair)
        tensor(2.)
    """

    weighted = True
    sees_channel_order = True
    layouts: tuple[str, ...] = LAYOUTS
    same_layout = True
    same_shape = True
    instead = ''
    compares_classes = False
    reads_labels = False

    @checked
    def __init__(self, *, weight: NonNegative = 1.0) -> None:
        super().__init__()
        self.weight = float(weight)

    def accept(self, pair: FeaturePair) -> None:
        """Refuse features that this criterion has no meaning for.

        Raises:
            LayoutError: Names level, side and what helps.
        """
        check_layouts(
            type(self).__name__,
            self.layouts,
            pair,
            same='layout' if self.same_layout else '',
            instead=self.instead,
        )

    def setup(self, pair: FeaturePair) -> None:
        """Create parameters from the shapes in ``pair``, which the stages have left.

        A criterion that overrides it calls this one first.
        """
        self.accept(pair)

    def too_few(self, pair: FeaturePair) -> bool:
        """Whether the batch is too small for the loss to mean anything.

        The last batch of an epoch may be a single image. The link then gives 0 for
        that step.
        """
        return False

    def before_train(self, runner: Runner) -> None:
        """After the weights are loaded, before the first iteration."""

    def forward(self, pair: FeaturePair) -> Tensor:
        """Weighted sum over the levels of ``pair``."""
        self.accept(pair)
        if self.same_shape:
            self.check_shapes(pair)
        with torch.autocast(pair.student[0].device.type, enabled=False):
            return self.weight * self.total(pair)

    def total(self, pair: FeaturePair) -> Tensor:
        """Sum over the levels of ``pair``, not weighted yet; autocast is off."""
        terms = [
            self._level(s.float(), t.float(), w)
            for s, t, w in zip(pair.student, pair.teacher, pair.weight, strict=True)
        ]
        return torch.stack(terms).sum()

    def check_shapes(self, pair: FeaturePair) -> None:
        """Refuse sides of other shapes.

        Raises:
            ConfigError: Names both and what helps.
        """
        for student, teacher in zip(pair.student, pair.teacher, strict=True):
            if student.shape == teacher.shape:
                continue
            widths = {channels_first(side).shape[1] for side in (student, teacher)}
            other = self.compares_classes and len(widths) > 1
            help = OTHER_CLASSES if other else remedy(student, teacher)
            raise ConfigError(
                f'{type(self).__name__} compares equal shapes, got student '
                f'{tuple(student.shape)} and teacher {tuple(teacher.shape)}; {help}'
            )

    def _level(self, student: Tensor, teacher: Tensor, weight: Tensor | None) -> Tensor:
        student, teacher = channels_first(student), channels_first(teacher)
        if weight is None:
            return self.loss(student, teacher)
        if not self.weighted or student.ndim != 4:
            raise ConfigError(
                f'{type(self).__name__} on {student.ndim}-D features has no positions '
                'that a weight map could apply to'
            )
        return self.loss(student, teacher, weight=weight.float())

    def loss(
        self, student: Tensor, teacher: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        """Loss of one level, a scalar."""
        raise NotImplementedError
