"""Figures of the channel report."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from torch import Tensor

from ..errors import ConfigError
from ..stages.kcd.matching import ChannelMap, selective
from .report import LevelReport

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402  needs the backend

# neither, student only, teacher only, both: told apart in print and by everyone
COLOURS = ('#f2f2f2', '#56a0d3', '#e69f00', '#1a1a1a')
STYLES = dict(
    identity=dict(color='#777777', linestyle='--'),
    random=dict(color='#bbbbbb', linestyle=':'),
    greedy=dict(color='#56a0d3'),
    bipartite=dict(color='#1a1a1a'),
    grouped=dict(color='#009e73', linestyle='-.'),
    procrustes=dict(color='#cc79a7'),
    ridge=dict(color='#e69f00'),
    checkpoint=dict(color='#d55e00', linestyle='--'),
)


def draw(
    reports: Sequence[LevelReport],
    folder: Path,
    *,
    k: int,
    transform: str = 'bipartite',
    class_names: Sequence[str] | None = None,
) -> list[Path]:
    """Draw all figures into ``folder``.

    Args:
        reports (Sequence[LevelReport]): Every level of every link.
        folder (Path): An existing folder.
        k (int): Channels per class.
        transform (str): What 'after' means; an index, no matrix.
            Defaults to 'bipartite'.
        class_names (Sequence[str], optional): Names by label.

    Returns:
        list[Path]: The files written.
    """
    files = []
    for report in reports:
        stem = f'{report.link}_level{report.level}'
        after = report.maps[transform]
        if report.class_means is not None:
            path = folder / f'{stem}_top_channels.png'
            top_channels(report, after, path, k, transform, class_names)
            files.append(path)
        files.append(folder / f'{stem}_correlation.png')
        correlation_matrices(report, after, files[-1], transform)
    for link in dict.fromkeys(report.link for report in reports):
        files.append(folder / f'{link}_sorted_correlations.png')
        sorted_correlations([r for r in reports if r.link == link], files[-1])
    return files


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=130)
    plt.close(figure)


def membership(student: Tensor, teacher: Tensor, k: int) -> Tensor:
    """``(K, C)``: 0 in neither's top k, 1 the student's, 2 the teacher's, 3 both."""
    k = min(k, student.shape[1])
    ours, theirs = (
        torch.zeros(m.shape, dtype=torch.long).scatter_(1, m.topk(k, 1)[1], 1)
        for m in (student, teacher)
    )
    return ours + 2 * theirs


def top_channels(
    report: LevelReport,
    after: ChannelMap,
    path: Path,
    k: int,
    transform: str,
    class_names: Sequence[str] | None,
    most_classes: int = 30,
) -> None:
    """Which channels stand out for each class, in both networks."""
    if report.class_means is None:
        raise ConfigError(f'links.{report.link}: no ground truth, so no class means')
    student, teacher = map(selective, report.class_means[:2])
    student, teacher, labels = (
        m[:most_classes] for m in (student, teacher, report.class_means[2])
    )
    size = min(report.widths)
    same = torch.arange(size)
    rows = len(labels)
    figure, axes = plt.subplots(
        2, 1, figsize=(10, 2.6 + 0.36 * rows), layout='constrained'
    )
    names = [
        class_names[label] if class_names and label < len(class_names) else str(label)
        for label in labels.tolist()
    ]
    shown = transform if transform in report.transforms else 'bipartite'
    for axis, title, name, kept, index in (
        (axes[0], 'before', 'identity', same, same),
        (axes[1], f'after {transform}', shown, after.kept, after.first),
    ):
        _top_panel(axis, student[:, kept], teacher[:, index], kept, k)
        axis.set_yticks(range(rows), names, fontsize=8)
        overlap = report.transforms[name]['selective']
        title += f': selective overlap@{k} {overlap:.2f} (by chance '
        axis.set_title(f'{title}{report.chance:.2f})', fontsize=10, loc='left')
    words = ('neither', 'student only', 'teacher only', 'both')
    figure.legend(
        handles=[
            Patch(facecolor=c, edgecolor='#999999', label=w)
            for c, w in zip(COLOURS, words)
        ],
        loc='outside lower center',
        ncols=4,
        fontsize=9,
    )
    title = f'{report.link}, level {report.level}\nfor each class, the {k} channels '
    title += 'most active compared with the other classes'
    if rows < len(report.class_means[2]):
        title += f' (first {rows} of {len(report.class_means[2])} classes)'
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def _top_panel(
    axis: plt.Axes, student: Tensor, teacher: Tensor, kept: Tensor, k: int
) -> None:
    """Classes by channels; a channel stands where the student's class for it is.

    So the student's picks are a staircase, the same before and after, and the teacher's
    either fall on it or do not. Channels that nobody picks are left out.
    """
    member = membership(student, teacher, k)
    picked = (member == 1) | (member == 3)
    place = student.masked_fill(~picked, -torch.inf).argmax(0)
    place[~picked.any(0)] = len(student)  # the teacher's alone come last
    order = place.argsort(stable=True)
    order = order[(member > 0).any(0)[order]]
    axis.imshow(
        member[:, order],
        cmap=ListedColormap(COLOURS),
        vmin=0,
        vmax=3,
        aspect='auto',
        interpolation='nearest',
    )
    axis.set_ylabel('class', fontsize=9)
    axis.set_xlabel("student's channel, sorted by the class it stands for", fontsize=9)
    axis.set_yticks([i - 0.5 for i in range(1, len(member))], minor=True)
    if len(order) <= 80:  # more are too narrow for numbers and lines
        numbers = kept[order].tolist()
        axis.set_xticks(range(len(order)), numbers, fontsize=6, rotation=90)
        axis.set_xticks([i - 0.5 for i in range(1, len(order))], minor=True)
    else:
        axis.set_xticks([])
    axis.grid(which='minor', color='white', linewidth=0.4)
    axis.tick_params(which='minor', length=0)


def correlation_matrices(
    report: LevelReport, after: ChannelMap, path: Path, transform: str
) -> None:
    """Correlation of every student channel with every teacher channel."""
    similarity = report.similarity
    after_all = similarity[after.kept][:, after.first]
    order = after_all.diagonal().argsort(descending=True)
    panels = {
        'before': (similarity, 'teacher channel'),
        f'after {transform}': (
            after_all[order][:, order],
            'teacher channel, reordered',
        ),
    }
    figure, axes = plt.subplots(1, 2, figsize=(10, 5.2), layout='constrained')
    for axis, (title, (matrix, label)) in zip(axes, panels.items()):
        image = axis.imshow(
            matrix,
            cmap='RdBu_r',
            vmin=-1,
            vmax=1,
            aspect='auto',
            interpolation='nearest',
        )
        mean = matrix.diagonal().mean()
        axis.set_title(f'{title}: mean of the diagonal {mean:.2f}', fontsize=10)
        axis.set_xlabel(label)
    axes[0].set_ylabel('student channel')
    axes[1].set_ylabel('student channel, best matched first')
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label('Pearson correlation (averaged features)')
    figure.suptitle(
        f'{report.link}, level {report.level}: {report.widths[0]} student and '
        f'{report.widths[1]} teacher channels, CKA {report.cka:.2f}',
        fontsize=11,
    )
    _save(figure, path)


def sorted_correlations(reports: Sequence[LevelReport], path: Path) -> None:
    """Correlation of every matched pair, best first, for every transform."""
    columns = min(3, len(reports))
    rows = -(-len(reports) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(4.2 * columns + 1, 3.1 * rows + 0.9),
        squeeze=False,
        sharey=True,
        layout='constrained',
    )
    for axis in axes.flat[len(reports) :]:
        axis.remove()
    for axis, report in zip(axes.flat, reports):
        for name, measured in report.transforms.items():
            label = f'{name} ({measured["correlation"]:.2f})'
            axis.plot(
                range(1, len(measured['correlations']) + 1),
                measured['correlations'],
                label=label,
                **STYLES[name],
            )
        axis.axhline(0, color='black', linewidth=0.5)
        axis.set_ylim(-1.02, 1.02)
        axis.set_title(f'level {report.level} (mean in brackets)', fontsize=10)
        axis.set_xlabel('matched pair, best first')
        axis.legend(fontsize=7, loc='lower left')
    for axis in axes[:, 0]:
        axis.set_ylabel('Pearson correlation')
    figure.suptitle(f'{reports[0].link}: correlation of matched channels', fontsize=11)
    _save(figure, path)
