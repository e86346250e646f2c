"""Attention transfer."""

import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ..pair import MAP, TOKENS, channels_first, positions, remedy
from ..registry import MODELS
from .base import Criterion


def attention_map(feature: Tensor) -> Tensor:
    """Mean of the squared channels at each position, L2-normalised over positions.

    Args:
        feature (Tensor): ``(N, C, H, W)`` or ``(N, C, L)``.

    Returns:
        Tensor: ``(N, H * W)`` or ``(N, L)``, of unit length.
    """
    return F.normalize(feature.square().mean(1).flatten(1), dim=1)


def attention_loss(
    student: Tensor, teacher: Tensor, *, weight: Tensor | None = None
) -> Tensor:
    r"""Mean over positions of :math:`w (Q_s - Q_t)^2`, Q the attention maps.

    Args:
        student (Tensor): ``(N, Cs, H, W)`` or ``(N, Cs, L)``.
        teacher (Tensor): The same with Ct channels; the widths may differ.
        weight (Tensor, optional): ``(N, 1, H, W)``.
    """
    error = (attention_map(student) - attention_map(teacher)).square()
    return (error if weight is None else error * weight.flatten(1)).mean()


@MODELS.register_module()
class ATLoss(Criterion):
    """Attention transfer, arXiv 1612.03928, equation 2, as a mean per position.

    Channels are summed out, so the two widths may differ without an adapter, and the
    order of channels does not matter.

    Args:
        weight (float): Weight of the link. Defaults to 1.0. Maps have unit length, so
            useful weights are of the order of the number of positions (1000 in the
            public CIFAR recipes).
    """

    sees_channel_order = False
    same_shape = False
    layouts = (MAP, TOKENS)

    def _level(self, student, teacher, weight):
        if positions(student) != positions(teacher):
            raise ConfigError(
                'ATLoss compares the same positions, got student '
                f'{tuple(student.shape)} and teacher {tuple(teacher.shape)}; '
                f'{remedy(student, teacher, widths=False)}'
            )
        student, teacher = channels_first(student), channels_first(teacher)
        return attention_loss(student, teacher, weight=weight)
