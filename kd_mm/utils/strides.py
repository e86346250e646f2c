"""How many pixels lie between two cells of a map."""

import functools
import math


@functools.lru_cache(maxsize=4096)  # once for every size of image that training brings
def stride_of(
    cells: tuple[int, ...], image: tuple[int, int], before: float = 0
) -> float:
    """Pixels between two cells; of several that explain a small map the likeliest.

    A map has as many cells as strides fit into the image, the last one in full or not,
    so image over cells is no stride: 1088 pixels are 9 cells of 128.

    Args:
        cells (tuple[int, ...]): Height and width of the map.
        image (tuple[int, int]): Of the batch, in pixels.
        before (float): Stride of the level before, if there is one: twice as many are
            likely. Defaults to 0.

    Returns:
        float: A whole number; powers of two before others.
    """
    ratio = math.sqrt(math.prod(image) / math.prod(cells))
    fitting = [s for s in range(1, max(image) + 1) if _explains(s, cells, image)]
    doubled = [s for s in fitting if s & (s - 1) == 0]
    if before and 2 * before in doubled:
        return 2 * before
    padded = [s for s in doubled if all(c == -(-n // s) for c, n in zip(cells, image))]
    likely = padded or doubled or fitting or [max(1, round(ratio))]
    return min(likely, key=lambda s: abs(math.log(s / ratio)))


def cell_size(cells: tuple[int, ...], image: tuple[int, int]) -> tuple[float, float]:
    """Height and width of a cell in pixels.

    The stride where one explains the map, else image over cells (resized maps).

    Args:
        cells (tuple[int, ...]): Height and width of the map.
        image (tuple[int, int]): Of the batch, in pixels.
    """
    stride = stride_of(tuple(cells), tuple(image))
    if _explains(stride, cells, image):
        return stride, stride
    return image[0] / cells[0], image[1] / cells[1]


def _explains(stride: float, cells: tuple[int, ...], image: tuple[int, int]) -> bool:
    """Whether so many strides fit into the image, the last one in full or not."""
    return all(c in (n // stride, -(-n // stride)) for c, n in zip(cells, image))
