"""The nine operators that DAFA augments a teacher's feature with."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...pair import channel_dim


@dataclass(frozen=True)
class Chance:
    """What is random in one application of one operator, the same on every level.

    Attributes:
        centre (tuple[float, float]): Of the cut-out, x and y in [-1, 1].
        seed (int): Of what is drawn for every channel or element.
    """

    centre: tuple[float, float]
    seed: int

    def generator(self, device: torch.device | str = 'cpu') -> torch.Generator:
        """A generator that starts anew, so that levels of one width agree."""
        return torch.Generator(device).manual_seed(self.seed)


@dataclass(frozen=True)
class Operator:
    """One operator.

    Attributes:
        apply (Callable): ``(feature, value, chance, aspect) -> feature``.
        low, high (float): The values that magnitudes 0 and 1 stand for; a geometric
            operator goes both ways, so that 0.5 is no change. Equal: no magnitude.
        spatial (bool): Whether it needs ``(N, C, H, W)``.
        smooth (bool): Whether autograd knows the gradient of the value. Elsewhere the
            magnitude gets a straight-through gradient: d feature / d magnitude = 1.
    """

    apply: Callable[[Tensor, Tensor, Chance, float], Tensor]
    low: float
    high: float
    spatial: bool
    smooth: bool

    @property
    def graded(self) -> bool:
        """Whether it has a magnitude."""
        return self.low != self.high

    def __call__(
        self, feature: Tensor, magnitude: Tensor, chance: Chance, aspect: float
    ) -> Tensor:
        """Augment.

        Args:
            feature (Tensor): ``(N, C, H, W)``; if not ``spatial``, ``(N, L, C)`` or
                ``(N, C)`` too.
            magnitude (Tensor): A scalar in [0, 1] on the feature's device.
            chance (Chance): The random part.
            aspect (float): Height / width of the images.

        Returns:
            Tensor: Shape and dtype of ``feature``.
        """
        value = self.low + (self.high - self.low) * magnitude
        if self.smooth:
            with torch.autocast(feature.device.type, enabled=False):
                out = self.apply(feature.float(), value, chance, aspect)
            return out.to(feature.dtype)
        out = self.apply(feature, value.detach(), chance, aspect)
        if self.graded and magnitude.requires_grad:
            out = out + (magnitude - magnitude.detach()).to(out.dtype)
        return out


def warp(feature: Tensor, rows: list[list[Tensor | float]]) -> Tensor:
    """Sample ``feature`` where a 2 x 3 matrix sends every position; 0 outside.

    Coordinates run from -1 to 1 over the whole map, whatever its size.
    """
    zero = torch.zeros((), device=feature.device)
    entries = [zero + entry for row in rows for entry in row]
    theta = torch.stack(entries).view(1, 2, 3).expand(len(feature), 2, 3)
    grid = F.affine_grid(theta, list(feature.shape), align_corners=False)
    return F.grid_sample(
        feature, grid, mode='bilinear', padding_mode='zeros', align_corners=False
    )


def shear_x(feature: Tensor, value: Tensor, _: Chance, __: float) -> Tensor:
    """Move rows sideways in proportion to their height."""
    return warp(feature, [[1.0, value, 0.0], [0.0, 1.0, 0.0]])


def shear_y(feature: Tensor, value: Tensor, _: Chance, __: float) -> Tensor:
    """Move columns up and down in proportion to their place."""
    return warp(feature, [[1.0, 0.0, 0.0], [value, 1.0, 0.0]])


def translate_x(feature: Tensor, value: Tensor, _: Chance, __: float) -> Tensor:
    """Move sideways by ``value`` widths."""
    return warp(feature, [[1.0, 0.0, 2 * value], [0.0, 1.0, 0.0]])


def translate_y(feature: Tensor, value: Tensor, _: Chance, __: float) -> Tensor:
    """Move up or down by ``value`` heights."""
    return warp(feature, [[1.0, 0.0, 0.0], [0.0, 1.0, 2 * value]])


def rotate(feature: Tensor, value: Tensor, _: Chance, aspect: float) -> Tensor:
    """Rotate by ``value`` degrees; in pixels, so that angles are kept."""
    angle = value * (math.pi / 180)
    cos, sin = torch.cos(angle), torch.sin(angle)
    return warp(feature, [[cos, -sin * aspect, 0.0], [sin / aspect, cos, 0.0]])


def cutout(feature: Tensor, value: Tensor, chance: Chance, _: float) -> Tensor:
    """Set a rectangle to 0 whose sides are ``value`` of the map's; at least a cell."""
    inside = []
    for size, centre in zip(feature.shape[2:], reversed(chance.centre), strict=True):
        cells = torch.arange(size, device=feature.device)
        middle = min(int((centre + 1) / 2 * size), size - 1)
        inside.append((cells - middle).abs() < (value * size / 2).clamp(min=0.5))
    hole = inside[0][:, None] & inside[1] & (value > 0)
    return feature.masked_fill(hole, 0)


def noise(feature: Tensor, value: Tensor, chance: Chance, _: float) -> Tensor:
    """Add Gaussian noise of ``value`` standard deviations of the feature."""
    normal = torch.randn(
        feature.shape, device=feature.device, generator=chance.generator(feature.device)
    )
    return feature + value * feature.detach().std() * normal


def channel_shuffle(feature: Tensor, _: Tensor, chance: Chance, __: float) -> Tensor:
    """Put the channels in a random order."""
    dim = channel_dim(feature)
    order = torch.randperm(feature.shape[dim], generator=chance.generator())
    return feature.index_select(dim, on_device(order, feature))


def channel_drop(feature: Tensor, value: Tensor, chance: Chance, _: float) -> Tensor:
    """Set every channel to 0 with probability ``value``."""
    dim = channel_dim(feature)
    height = torch.rand(feature.shape[dim], generator=chance.generator())
    dropped = on_device(height, feature) < value
    return feature.masked_fill(dropped.view(-1, *[1] * (feature.ndim - dim - 1)), 0)


def on_device(tensor: Tensor, like: Tensor) -> Tensor:
    """Copy from the host without waiting for the device."""
    if like.device.type == 'cpu':
        return tensor
    return tensor.pin_memory().to(like.device, non_blocking=True)


OPERATORS = {
    'ShearX': Operator(shear_x, -0.3, 0.3, spatial=True, smooth=True),
    'ShearY': Operator(shear_y, -0.3, 0.3, spatial=True, smooth=True),
    'TranslateX': Operator(translate_x, -0.45, 0.45, spatial=True, smooth=True),
    'TranslateY': Operator(translate_y, -0.45, 0.45, spatial=True, smooth=True),
    'Rotate': Operator(rotate, -30.0, 30.0, spatial=True, smooth=True),
    'Cutout': Operator(cutout, 0.0, 0.2, spatial=True, smooth=False),
    'Noise': Operator(noise, 0.0, 0.1, spatial=False, smooth=True),
    'ChannelShuffle': Operator(channel_shuffle, 0.0, 0.0, spatial=False, smooth=False),
    'ChannelDrop': Operator(channel_drop, 0.0, 0.5, spatial=False, smooth=False),
}
