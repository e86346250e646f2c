"""Angles between features, and between the patches of an image."""

import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ..pair import MAP, TOKENS, channels_first, positions, remedy
from ..registry import MODELS
from .base import Criterion


def cosine_loss(
    student: Tensor, teacher: Tensor, *, weight: Tensor | None = None
) -> Tensor:
    r"""Mean over images and positions of :math:`w (1 - \cos(f_s, f_t))`.

    Args:
        student (Tensor): ``(N, C, H, W)``, ``(N, C, L)`` or ``(N, C)``.
        teacher (Tensor): The same shape.
        weight (Tensor, optional): ``(N, 1, H, W)``.
    """
    error = 1 - F.cosine_similarity(student, teacher, dim=1)
    return (error if weight is None else error * weight[:, 0]).mean()


def patch_similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean over images and pairs of positions of :math:`(a^s_{ij} - a^t_{ij})^2`.

    :math:`a_{ij}` is the cosine of the features at positions i and j of one image.

    Args:
        student (Tensor): ``(N, C, ...)``.
        teacher (Tensor): ``(N, C', ...)`` with as many positions.
    """
    grams = []
    for feature in (student, teacher):
        flat = F.normalize(feature.flatten(2), dim=1)  # (N, C, L)
        grams.append(flat.transpose(1, 2) @ flat)  # (N, L, L)
    return F.mse_loss(*grams)


@MODELS.register_module()
class CosineLoss(Criterion):
    """The angle between both features at every position. Our choice.

    The lengths of the features, which differ between a foundation model and a student
    and say little, do not matter; AM-RADIO (arXiv 2312.06709) compares summaries so.

    Args:
        weight (float): Weight of the link. Defaults to 1.0.
    """

    def loss(self, student, teacher, *, weight=None):
        return cosine_loss(student, teacher, weight=weight)


@MODELS.register_module()
class PatchSimilarityLoss(Criterion):
    """Which patches of an image are alike: pair-wise distillation, arXiv 1903.04197,
    equation 2, with every position a node.

    Widths may differ, so it needs no adapter, and the order of channels does not
    matter. DINOv3 (arXiv 2508.10104) holds the same matrix ("Gram anchoring"). The
    matrices have ``(H * W)**2`` entries an image: take levels of stride 16 or more.

    Args:
        weight (float): Weight of the link. Defaults to 1.0.

    Raises:
        ConfigError: If the sides have different numbers of positions.
    """

    weighted = False
    sees_channel_order = False
    same_layout = same_shape = False
    layouts = (MAP, TOKENS)

    def _level(self, student, teacher, weight):
        if weight is not None:
            raise ConfigError(
                'PatchSimilarityLoss compares pairs of positions: a weight map cannot '
                'apply'
            )
        if positions(student) != positions(teacher):
            raise ConfigError(
                f'PatchSimilarityLoss compares equal positions, got student '
                f'{tuple(student.shape)} and teacher {tuple(teacher.shape)}; '
                + remedy(student, teacher, widths=False)
            )
        return patch_similarity_loss(channels_first(student), channels_first(teacher))
