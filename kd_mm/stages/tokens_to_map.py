"""Make maps of a transformer's tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from mmengine.logging import MMLogger

from ..errors import ConfigError
from ..options import Count, Natural, checked
from ..pair import MAP, TOKENS, FeaturePair, layout
from ..registry import MODELS
from .base import Stage

EXTRA = 5  # a class token and four registers; more would be grids by chance


@dataclass(frozen=True)
class Grid:
    """What :class:`TokensToMap` learned about one level of one side.

    Attributes:
        extra (int): Tokens in front of the grid's.
        strides (tuple[int, ...]): Pixels between two tokens; several where the trial
            image's size left that open.
    """

    extra: int
    strides: tuple[int, ...]


@MODELS.register_module()
class TokensToMap(Stage):
    """Make maps of tokens: drop the class token, put the rest on a grid. Our choice.

    Vision transformers give ``(N, L, C)`` and know the grid themselves. Here it comes
    from the size of the images: before training the trial's tell how many pixels lie
    between two tokens, and how many tokens are more than the grid holds (class,
    distillation and register tokens, which stand in front). Both are logged. Where the
    teacher's images were padded further than the student's, its map is cut to what both
    saw. Maps in the link are left as they are.

    Args:
        side (str): 'student', 'teacher' or 'both'. Defaults to 'both'.
        drop (int, optional): How many tokens to leave out in front. Defaults to None,
            as many as are more than the grid holds, up to 5.
        grid (Sequence[int], optional): Height and width of the grid in tokens, for
            networks that see every image at one size. Defaults to None, from the
            size of the images.

    Shapes:
        ``(N, drop + h * w, C)``, row by row -> ``(N, C, h, w)``.

    Raises:
        ConfigError: For numbers out of range, where no side has tokens, or where they
            fill no grid of the image's proportions.
    """

    layouts = (MAP, TOKENS)

    @checked
    def __init__(
        self,
        *,
        side: Literal['student', 'teacher', 'both'] = 'both',
        drop: Natural | None = None,
        grid: tuple[Count, Count] | None = None,
    ) -> None:
        super().__init__()
        self.sides = ('student', 'teacher') if side == 'both' else (side,)
        self.drop, self.grid = drop, grid
        self.grids: dict[tuple[str, int], Grid] = {}

    def setup(self, pair: FeaturePair) -> None:
        super().setup(pair)
        for side in self.sides:
            for level, feature in enumerate(getattr(pair, side)):
                if layout(feature) == TOKENS:
                    where = f'links.{pair.link}: {side}, level {level}'
                    count, image = feature.shape[1], seen_by(side, pair)
                    self.grids[side, level] = self._learn(where, count, image)
        if not self.grids:
            raise ConfigError(
                f'TokensToMap has nothing to do: no level of {" or ".join(self.sides)} '
                f'gives {TOKENS}; remove it'
            )

    def _learn(self, where: str, count: int, image: tuple[int, int]) -> Grid:
        extras = range(EXTRA + 1) if self.drop is None else (self.drop,)
        if self.grid is not None:
            height, width = self.grid
            extra = count - height * width
            if extra < 0 or extra not in extras:
                raise ConfigError(
                    f'TokensToMap: {count} tokens are not {height} x {width} and '
                    + (f'{self.drop} more' if self.drop else f'up to {EXTRA} more')
                )
            found = Grid(extra, ())
        else:
            found = learn_grid(count, image, extras)
            height, width, _ = size_of(count - found.extra, image, found.strides)
        MMLogger.get_current_instance().info(
            f'{where}: {count} tokens are a map of {height} x {width}, and '
            f'{found.extra} in front of it that are dropped'
        )
        return found

    def forward(self, pair: FeaturePair) -> FeaturePair:
        for (side, level), grid in self.grids.items():
            features, image = getattr(pair, side), seen_by(side, pair)
            tokens = features[level][:, grid.extra :].transpose(1, 2)  # (N, C, h * w)
            if self.grid is not None:
                features[level] = tokens.unflatten(2, tuple(self.grid))
                continue
            *size, stride = size_of(tokens.shape[2], image, grid.strides)
            height, width = _up(shown_by(side, pair), stride)  # without padding alone
            features[level] = tokens.unflatten(2, size)[..., :height, :width]
        return pair


def seen_by(side: str, pair: FeaturePair) -> tuple[int, int]:
    """Height and width of the images that one side's network saw."""
    return pair.padded_size or pair.image_size if side == 'teacher' else pair.image_size


def shown_by(side: str, pair: FeaturePair) -> tuple[int, int]:
    """How much of these images shows the student's batch."""
    return pair.shown_size or pair.image_size if side == 'teacher' else pair.image_size


def learn_grid(count: int, image: tuple[int, int], extras: Sequence[int]) -> Grid:
    """Split ``count`` tokens of images of ``image`` pixels.

    A stride that divides both sides goes before one that leaves a rest, and few extra
    tokens before many.

    Args:
        count (int): All tokens.
        image (tuple[int, int]): Height and width in pixels.
        extras (Sequence[int]): How many of them may be no part of the grid.

    Raises:
        ConfigError: If they are no grid with one stride.
    """
    strides = sorted(range(1, max(image) + 1), key=lambda s: -(s & -s))
    even = [s for s in strides if not any(pixels % s for pixels in image)]
    for candidates in (even, strides):
        for extra in extras:
            fitting = [s for s in candidates if _grid(count - extra, image, s)]
            if fitting:
                return Grid(extra, tuple(fitting))
    height, width = image
    raise ConfigError(
        f'TokensToMap: {count} tokens are no grid on images of {height} x {width}, '
        f'with {" or ".join(map(str, extras))} more in front; tokens of several levels '
        'in one row (Deformable DETR) have none, tap the neck there; elsewhere give '
        'grid=(height, width) or drop'
    )


@cache
def size_of(
    count: int, image: tuple[int, int], strides: tuple[int, ...]
) -> tuple[int, int, int]:
    """Height, width and stride of ``count`` tokens on images of ``image`` pixels.

    Args:
        count (int): Tokens of the grid.
        image (tuple[int, int]): Height and width in pixels.
        strides (tuple[int, ...]): Pixels between two tokens, to be tried in turn.

    Raises:
        ConfigError: If none of ``strides`` makes a grid of as many.
    """
    for stride in strides:
        if size := _grid(count, image, stride):
            return *size, stride
    raise ConfigError(
        f'TokensToMap: {count} tokens on images of {image[0]} x {image[1]} are no grid '
        f'with {" or ".join(map(str, strides))} pixels between them, as on the trial '
        'images'
    )


def _grid(count: int, image: tuple[int, int], stride: int) -> tuple[int, int] | None:
    """Cells of an image, where the edge is padded or cut off, if they are as many."""
    for size in (_up(image, stride), (image[0] // stride, image[1] // stride)):
        if size[0] * size[1] == count:
            return size
    return None


def _up(image: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-image[0] // stride), -(-image[1] // stride)
