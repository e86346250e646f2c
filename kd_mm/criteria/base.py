"""What every criterion of a link is."""

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..options import NonNegative, checked
from ..pair import FeaturePair


class Criterion(nn.Module):
    """Turns a :class:`FeaturePair` into one number: ``weight * sum over levels``.

    Subclasses implement :meth:`loss` for one level. It gets fp32 tensors of equal
    shape with autocast off, and returns a mean per element, so that weights depend
    neither on the image size nor on the batch size.

    Args:
        weight (float): Weight of the whole link; 0 turns the link off.
            Defaults to 1.0.

    Attributes:
        weighted (bool): Whether a spatial weight map (DAM) can be applied.
        sees_channel_order (bool): Whether permuting the teacher's channels changes
            the loss. Where it does not, aligning channels (KCD) cannot help.

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

    @checked
    def __init__(self, *, weight: NonNegative = 1.0) -> None:
        super().__init__()
        self.weight = float(weight)

    def setup(self, pair: FeaturePair) -> None:
        """Create parameters from the shapes in ``pair``, which the stages have left."""

    def forward(self, pair: FeaturePair) -> Tensor:
        """Weighted sum over the levels of ``pair``."""
        with torch.autocast(pair.student[0].device.type, enabled=False):
            terms = [
                self._level(s.float(), t.float(), w)
                for s, t, w in zip(pair.student, pair.teacher, pair.weight, strict=True)
            ]
            return self.weight * torch.stack(terms).sum()

    def _level(self, student: Tensor, teacher: Tensor, weight: Tensor | None) -> Tensor:
        if student.shape != teacher.shape:
            hint = (
                'add dict(type="kd_mm.ConvAdapter") to the stages'
                if student.shape[1] != teacher.shape[1]
                else 'add dict(type="kd_mm.Resize") to the stages'
            )
            raise ConfigError(
                f'{type(self).__name__} compares equal shapes, got student '
                f'{tuple(student.shape)} and teacher {tuple(teacher.shape)}; {hint}'
            )
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
