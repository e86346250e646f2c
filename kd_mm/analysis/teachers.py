"""Which of several teachers suits a student? A short probe instead of training."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import rich.progress
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ..errors import ConfigError
from ..pair import FeaturePair
from ..stages.dpk.cka import cka
from ..stages.dpk.dpk import GRID, bounded
from ..stages.dpk.prior_net import PriorNet, Size
from ..stages.tokens_to_map import TokensToMap
from ..unaugmented import feature_pairs, links_of, undisturbed
from ..utils.randomness import kept_random

MEMORY = 4 * 2**30  # bytes of features that are kept
CELLS = 16  # on a side, at most: larger maps are averaged down before they are kept
TOKENS = 8  # on a side, at most
SIZE = Size(64, 2, 4)
HELD_OUT = 0.25  # part of the batches that is measured on

Batch = list[tuple[Tensor, Tensor]]  # student and teacher by level


@dataclass
class Rating:
    """What the probe found about one teacher.

    Attributes:
        teacher (str): Its name.
        error (float): Share of the variance of the teacher's features that the
            student's leave unexplained, mean over levels; ranks the teachers.
        cka (float): Unbiased CKA of the two sides, mean over levels.
        ratio (float): What DPK would start with, ``1 - CKA`` within its bounds.
        parameters (float): Of the teacher, in millions.
        metric (float | None): Its own first metric on the validation set.
    """

    teacher: str
    error: float
    cka: float
    ratio: float
    parameters: float
    metric: float | None = None


def collect(model: nn.Module, loader: Iterable[dict]) -> list[Batch]:
    """Features of both sides of every link, tokens as maps, on the host.

    Maps of more than 16 cells on a side are averaged down to 16 on the longer one, so
    that some hundred images of a detector fit into memory.

    Args:
        model (nn.Module): A distilled model, not wrapped.
        loader (Iterable[dict]): Un-augmented batches.

    Raises:
        ConfigError: If they take more than 4 GiB.
    """
    batches: list[Batch] = []
    size = 0
    names = list(model.distiller.links)
    with undisturbed(model):
        for pairs in feature_pairs(model, loader, names, title='kd_mm: features'):
            batch = [
                _smaller(s.float(), t.float())
                for pair in _as_maps(model, pairs)
                for s, t in zip(pair.student, pair.teacher, strict=True)
            ]
            batches.append(batch)
            size += sum(4 * (s.numel() + t.numel()) for s, t in batch)
            if size > MEMORY:
                raise ConfigError(
                    f'the features of {len(batches)} batches take more than 4 GiB: '
                    'use fewer --images'
                )
    return batches


def _as_maps(model: nn.Module, pairs: dict[str, FeaturePair]) -> list[FeaturePair]:
    """What the links' TokensToMap make of the pairs; other stages do not act here."""
    for name, pair in pairs.items():
        for stage in links_of(model)[name].stages:
            if isinstance(stage, TokensToMap):
                stage(pair)
    return list(pairs.values())


def _smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides of a level, averaged down alike, on the host."""
    size = student.shape[2:]
    if len(size) == 2 and size == teacher.shape[2:] and max(size) > CELLS:
        size = [max(1, round(n * CELLS / max(size))) for n in size]
        student = F.adaptive_avg_pool2d(student, size)
        teacher = F.adaptive_avg_pool2d(teacher, size)
    return student.cpu(), teacher.cpu()


def probe(
    batches: Sequence[Batch], *, steps: int, seed: int, device: torch.device
) -> tuple[float, float, float]:
    """Fit DPK's networks on frozen features, and measure on batches apart.

    DPK, arXiv 2206.06067, says that it gives a fast solution in selecting a teacher;
    how is our choice. One :class:`PriorNet` a level learns to rebuild the teacher's
    map, given from none to nearly all of it, by AdamW. What is measured is how well it
    does from the student's alone.

    Args:
        batches (Sequence[Batch]): Of :func:`collect`; every fourth is kept apart.
        steps (int): Of AdamW.
        seed (int): Of weights and positions.
        device (torch.device): Where to train.

    Returns:
        tuple[float, float, float]: Error, CKA and ratio, see :class:`Rating`.

    Raises:
        ConfigError: If there are too few batches, or features that are no maps.
    """
    every = round(1 / HELD_OUT)
    apart, own = batches[::every], [b for i, b in enumerate(batches) if i % every]
    if not own:
        raise ConfigError(f'{len(batches)} batches are too few: use more --images')
    for student, teacher in batches[0]:
        if student.ndim != 4 or student.shape[2:] != teacher.shape[2:]:
            raise ConfigError(
                'the probe needs maps of equal size, got student '
                f'{tuple(student.shape)} and teacher {tuple(teacher.shape)}; of the '
                'stages in the link only TokensToMap acts here'
            )
    with kept_random(device):
        torch.manual_seed(seed)
        nets = nn.ModuleList(_net(s, t) for s, t in batches[0]).to(device)
        scales = _variances(own)
        _fit(nets, own, scales, steps, device)
        with torch.no_grad():
            errors = [
                [
                    float(_loss(net, s.to(device), t.to(device), 0.0) / scale)
                    for net, (s, t), scale in zip(nets, batch, scales, strict=True)
                ]
                for batch in apart
            ]
    error = float(torch.tensor(errors).mean())
    alike = torch.stack([_alike(batches, i) for i in range(len(nets))])
    ratios = bounded(1 - alike, (0.1, 0.95), 0.5)
    return error, float(alike.nanmean()), float(ratios.mean())


def _net(student: Tensor, teacher: Tensor) -> PriorNet:
    longest = max(student.shape[2:])
    return PriorNet(
        student=student.shape[1],
        teacher=teacher.shape[1],
        patch=max(1, -(-longest // TOKENS)),
        encoder=SIZE,
        decoder=SIZE,
    )


def _variances(batches: Sequence[Batch]) -> list[float]:
    """Of the teacher's features by level: what each channel's mean misses."""
    out = []
    for level in range(len(batches[0])):
        rows = [b[level][1].transpose(0, 1).flatten(1).double() for b in batches]
        out.append(
            float(torch.cat(rows, 1).var(1, correction=0).mean().clamp(min=1e-12))
        )
    return out


def _loss(net: PriorNet, student: Tensor, teacher: Tensor, ratio: float) -> Tensor:
    rows, columns = net.grid(*student.shape[2:])
    order = torch.rand(len(student), rows * columns, device=student.device).argsort(1)
    rebuilt = net(student, teacher, order, int(ratio * rows * columns))
    return F.mse_loss(rebuilt, teacher)


def _fit(nets, batches, scales, steps: int, device) -> None:
    optimizer = torch.optim.AdamW(nets.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    ratios = 0.95 * torch.rand(steps) * (torch.rand(steps) < 0.5)  # half of them 0
    title = 'kd_mm: fitting the probe'
    for step in rich.progress.track(range(steps), title, transient=True):
        batch = batches[step % len(batches)]
        terms = [
            _loss(net, s.to(device), t.to(device), float(ratios[step])) / scale
            for net, (s, t), scale in zip(nets, batch, scales, strict=True)
        ]
        optimizer.zero_grad()
        torch.stack(terms).sum().backward()
        nn.utils.clip_grad_norm_(nets.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _alike(batches: Sequence[Batch], level: int) -> Tensor:
    """Unbiased CKA of one level over all images, averaged to 8 x 8 cells."""
    sides = [
        torch.cat(
            [F.adaptive_avg_pool2d(b[level][i], GRID).flatten(1) for b in batches]
        )
        for i in range(2)
    ]
    return cka(*sides) if len(sides[0]) >= 4 else torch.tensor(float('nan'))


def ranked(ratings: Sequence[Rating]) -> list[Rating]:
    """The teacher whose features the student explains best comes first.

    That is not the one to learn most from: read it with the teacher's own metric.
    """
    return sorted(ratings, key=lambda rating: rating.error)


def print_ranking(ratings: Sequence[Rating], console: Console) -> None:
    """Show the table."""
    title = 'Teachers, best explained by the student first'
    table = Table(title=title, title_justify='left')
    for column in ('', 'teacher', 'error', 'CKA', 'ratio', 'parameters', 'own metric'):
        table.add_column(column)
    for place, r in enumerate(ranked(ratings), 1):
        metric = '' if r.metric is None else f'{r.metric:.4f}'
        numbers = (f'{value:.3f}' for value in (r.error, r.cka, r.ratio))
        table.add_row(str(place), r.teacher, *numbers, f'{r.parameters:.2f} M', metric)
    console.print(table)


def write_json(ratings: Sequence[Rating], path: Path, **about) -> None:
    """Keep the ratings, best first, with what they were measured on."""
    content = dict(about, ratings=[asdict(rating) for rating in ranked(ratings)])
    path.write_text(json.dumps(content, indent=1))


def draw(ratings: Sequence[Rating], path: Path) -> None:
    """Error and CKA as bars, the lowest error first."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    order = ranked(ratings)[::-1]
    height = 1.2 + 0.45 * len(order)
    figure, axes = plt.subplots(
        1, 2, figsize=(9, height), sharey=True, layout='constrained'
    )
    names = [rating.teacher for rating in order]
    axes[0].barh(names, [rating.error for rating in order], color='#56a0d3')
    axes[0].set(title='unexplained variance (lower is better)')
    axes[1].barh(names, [rating.cka for rating in order], color='#e69f00')
    axes[1].set(title='CKA with the student')
    figure.savefig(path, dpi=110)
    plt.close(figure)
