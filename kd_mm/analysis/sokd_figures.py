"""Figures of SoKD: areas over an image, and the course of a policy."""

from collections.abc import Iterable

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from .areas import SIDES, AreaView

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402  needs the backend

COLOURS = dict(student='#56a0d3', teacher='#e69f00', truth='#ffffff')


def areas_figure(view: AreaView) -> np.ndarray:
    """Areas of both sides, their heat, and the weights, over one image.

    Returns:
        ndarray: ``(H, W, 3)`` uint8 RGB.
    """
    height, width = view.image.shape[:2]
    figure, axes = plt.subplots(
        1, 4, figsize=(14, 14 / 4 * height / width + 0.7), layout='constrained'
    )
    areas, *heats, weight = axes
    areas.imshow(view.image)
    for side, style in zip(SIDES, ('-', '--'), strict=True):
        for x1, y1, x2, y2 in view.boxes[side]:
            if x1 >= 0:
                box = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False)
                box.set(edgecolor=COLOURS[side], linestyle=style, linewidth=1.5)
                areas.add_patch(box)
    areas.set_title('areas: student (blue), teacher (orange)', fontsize=10)
    norm = scale(view.heat.values())  # one for both sides, so that colours compare
    for axis, side in zip(heats, SIDES, strict=True):
        axis.imshow(view.image)
        shown = axis.imshow(view.heat[side], cmap='magma', alpha=0.65, norm=norm)
        axis.set_title(f'heat of the {side}', fontsize=10)
        colour_bar(figure, shown, axis)
    weight.imshow(view.image)
    norm = scale([view.weight])
    shown = weight.imshow(view.weight, cmap='viridis', alpha=0.6, norm=norm)
    for x1, y1, x2, y2 in view.truth:
        box = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False)
        weight.add_patch(box)
        box.set(edgecolor=COLOURS['truth'], linewidth=1)
    title = 'weight'
    if len(view.truth):
        title += f' ({view.coverage():.2f} x as much in true boxes)'
    weight.set_title(title, fontsize=10)
    colour_bar(figure, shown, weight)
    for axis in axes:
        axis.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    figure.suptitle(f'{view.name}, link {view.link}', fontsize=11)
    return as_array(figure)


def scale(maps: Iterable[np.ndarray]) -> Normalize:
    """One scale for several maps, no narrower than what two digits can tell apart.

    A flat map is then one colour with its value in the middle of the bar; on a scale
    of its own its rounding errors would look like a pattern.
    """
    maps = list(maps)
    low, high = float(min(m.min() for m in maps)), float(max(m.max() for m in maps))
    missing = max(0.05 * max(abs(low), abs(high), 0.1) - (high - low), 0.0)
    return Normalize(low - missing / 2, high + missing / 2)


def colour_bar(figure: Figure, shown: AxesImage, axis: Axes) -> Colorbar:
    """A bar whose numbers have the digits that tell them apart."""
    return figure.colorbar(shown, ax=axis, shrink=0.8, ticks=MaxNLocator(5))


def policy_figure(
    course: dict[str, dict[str, list[float]]],
    entropy: list[float],
    when: tuple[str, list[float]] | None = None,
) -> np.ndarray:
    """Weight, probability and magnitude of every operator, and entropy, over time.

    Args:
        course (dict): By operator, by part, one value each time.
        entropy (list[float]): In nats, one value each time.
        when (tuple, optional): 'epoch' or 'iteration', and the times. Defaults to
            None, every epoch.

    Returns:
        ndarray: ``(H, W, 3)`` uint8 RGB.
    """
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout='constrained')
    titles = dict(
        weight='probability to be drawn',
        probability='probability to run when drawn (beta)',
        magnitude='magnitude (m; 0.5 is no shear, shift or rotation)',
    )
    unit, times = when or ('epoch', [i + 1.0 for i in range(len(entropy))])
    margin = 0.5 * max(times) / len(times)
    colours = plt.get_cmap('tab10')
    for axis, (part, title) in zip(axes.flat, titles.items(), strict=False):
        for i, (name, parts) in enumerate(course.items()):
            if part in parts:
                axis.plot(
                    times, parts[part], color=colours(i), marker='o', ms=3, label=name
                )
        highest = max(max(p[part]) for p in course.values() if part in p)
        axis.set(title=title, ylim=(-0.02, 1.2 * highest if part == 'weight' else 1.02))
    axes[1, 1].plot(times, entropy, color='#1a1a1a', marker='o', ms=3)
    axes[1, 1].set(title='entropy of the choice of a sub-policy (nats)')
    for axis in axes.flat:
        axis.set(xlabel=unit, xlim=(min(times) - margin, max(times) + margin))
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside right upper', fontsize=9)
    return as_array(figure)


def as_array(figure: Figure) -> np.ndarray:
    """Draw, close, and return the pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return pixels
