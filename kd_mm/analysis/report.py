"""How far apart are the channels of two networks, and what does each transform mend?

Measured on other images than the transforms are fitted on: batches alternate between
the two, so that a transform that only learns its images by heart gains nothing.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ..errors import ConfigError
from ..pair import FeaturePair
from ..stages.kcd.align import ChannelAlign
from ..stages.kcd.fit import observe
from ..stages.kcd.matching import (
    TRANSFORMS,
    ChannelMap,
    cka_of,
    correlation,
    fit_map,
    mapped,
    matched_correlation,
    overlap_at_k,
    selective,
)
from ..stages.kcd.moments import Covariance, LevelStatistics
from ..unaugmented import feature_pairs, links_of, undisturbed


@dataclass
class LevelReport:
    """Measures of one level of one link.

    Attributes:
        link (str): Name of the link.
        level (int): Number of the level in it.
        widths (tuple[int, int]): Channels of student and teacher.
        chance (float): Overlap that random channels have.
        cka (float): Linear CKA before any transform.
        transforms (dict[str, dict]): By transform: 'overlap' of the most active
            channels per class and 'selective' of the channels that are most active
            compared with the other classes (None without ground truth), 'correlation'
            (mean), 'correlations' (of every pair, descending), 'cka'. 'identity' is
            the state before.
        maps (dict[str, ChannelMap]): The transforms themselves.
        similarity (Tensor): Correlation matrix ``(Cs, Ct)``.
        class_means (tuple | None): Class means of student ``(K, Cs)`` and teacher
            ``(K, Ct)``, and labels ``(K,)``.
    """

    link: str
    level: int
    widths: tuple[int, int]
    chance: float
    cka: float
    transforms: dict[str, dict]
    maps: dict[str, ChannelMap]
    similarity: Tensor
    class_means: tuple[Tensor, Tensor, Tensor] | None

    def summary(self) -> dict:
        """What goes into the JSON file."""
        keys = ('link', 'level', 'widths', 'chance', 'cka', 'transforms')
        return {key: getattr(self, key) for key in keys}


def measure(
    model: nn.Module, loader: Iterable[dict], *, similarity: str = 'gap', k: int = 10
) -> list[LevelReport]:
    """Measure all links of a distilled model on what their taps give, before stages.

    Args:
        model (nn.Module): A distilled model, not wrapped.
        loader (Iterable[dict]): Un-augmented batches, at least two.
        similarity (str): What the transforms are fitted to, see
            :class:`kd_mm.stages.ChannelAlign`. Defaults to 'gap'.
        k (int): Channels per class in the overlap. Defaults to 10.

    Raises:
        ConfigError: If there are too few images, or no ground truth for 'class'.
    """
    links = links_of(model)
    names = list(links)
    halves: dict[str, list[list[LevelStatistics]]] = {}
    kinds: dict[str, list[str]] = {}
    with undisturbed(model):
        pairs_of = feature_pairs(model, loader, names, title='kd_mm: channels')
        for number, pairs in enumerate(pairs_of):
            for name, pair in pairs.items():
                if name not in halves:
                    kinds[name] = _kinds(pair, similarity)
                    halves[name] = [
                        [LevelStatistics(kinds[name]) for _ in pair.student]
                        for _ in range(2)
                    ]
                observe(halves[name][number % 2], pair)
    if not halves or not all(level.width for h in halves.values() for level in h[1]):
        raise ConfigError('the report needs at least two batches of training images')
    reports = []
    for name, (fit, held_out) in halves.items():
        for level, (a, b) in enumerate(zip(fit, held_out, strict=True)):
            maps = fitted_maps(a.covariance(similarity))
            maps |= _checkpoint_map(links[name].stages, level, b)
            means = b.class_means() if 'class' in kinds[name] else None
            cov = b.covariance('gap')
            reports.append(level_report(name, level, maps, cov, means, k))
    return reports


def _kinds(pair: FeaturePair, similarity: str) -> list[str]:
    """The statistics that these features and this ground truth allow."""
    wanted = dict.fromkeys(['gap', similarity])
    try:
        probe = [LevelStatistics(['class']) for _ in pair.student]
        observe(probe, pair)
    except ConfigError as error:
        if similarity == 'class':
            raise
        MMLogger.get_current_instance().warning(f'no overlap of classes: {error}')
        return list(wanted)
    return list(wanted | {'class': None})


def _checkpoint_map(
    stages: Iterable[nn.Module], level: int, b: LevelStatistics
) -> dict[str, ChannelMap]:
    """The map that the loaded checkpoint has, if it was fitted to these widths."""
    for stage in stages:
        if not isinstance(stage, ChannelAlign) or stage.fitted_at < 0:
            continue
        widths = stage.widths[0 if stage.share else level]
        if widths == (b.width, b.width_teacher):
            found = stage.map(level)
            matrix = None if found.matrix is None else found.matrix.double().cpu()
            return {'checkpoint': ChannelMap(found.kept.cpu(), found.index, matrix)}
    return {}


def fitted_maps(cov: Covariance) -> dict[str, ChannelMap]:
    """All transforms that differ at these widths."""
    width_s, width_t = cov.st.shape
    return {
        name: fit_map(name, cov)
        for name in TRANSFORMS
        if name != 'grouped' or width_t > width_s
    }


def level_report(
    link: str,
    level: int,
    maps: dict[str, ChannelMap],
    cov: Covariance,
    means: tuple[Tensor, Tensor, Tensor] | None,
    k: int,
) -> LevelReport:
    """Apply maps to held-out statistics."""
    width_s, width_t = cov.st.shape
    transforms = {}
    for name, found in maps.items():
        pairs = matched_correlation(cov, found).sort(descending=True).values
        overlap = overlap_selective = None
        if means is not None:
            student, teacher = means[0][:, found.kept], means[1]
            teacher = teacher @ found.linear(width_t).to(teacher).T
            overlap = overlap_at_k(student, teacher, k)
            overlap_selective = overlap_at_k(selective(student), selective(teacher), k)
        transforms[name] = dict(
            overlap=overlap,
            selective=overlap_selective,
            correlation=float(pairs.mean()),
            cka=float(cka_of(mapped(cov, found))),
            correlations=[round(float(value), 4) for value in pairs],
        )
    return LevelReport(
        link=link,
        level=level,
        widths=(width_s, width_t),
        chance=min(k, width_s, width_t) / min(width_s, width_t),
        cka=float(cka_of(cov)),
        transforms=transforms,
        maps=maps,
        similarity=correlation(cov).cpu(),
        class_means=None if means is None else _on_cpu(*means),
    )


def _on_cpu(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return a.cpu(), b.cpu(), c.cpu()


def print_tables(reports: list[LevelReport], k: int, console: Console) -> None:
    """One table per link: transforms by levels, each both overlaps and correlation.

    CKA, which no reordering can change, stands above; per transform it is in the JSON.
    """
    for link in dict.fromkeys(report.link for report in reports):
        levels = [report for report in reports if report.link == link]
        table = Table(
            title=f'{link}: overlap@{k} | the same, selective | mean correlation',
            caption='overlap@k: of the most active channels per class; selective: of '
            'those most active compared with other classes; correlation: of matched '
            'channels. Fitted on one half of the images, measured on the other; of '
            'grouped channels only the best counts',
            title_justify='left',
            caption_justify='left',
        )
        table.add_column('transform', no_wrap=True)
        for report in levels:
            width_s, width_t = report.widths
            table.add_column(
                f'level {report.level}\n{width_s} <- {width_t}, CKA {report.cka:.2f}'
            )
        for name in dict.fromkeys(n for r in levels for n in r.transforms):
            table.add_row(name, *(_cell(r.transforms.get(name)) for r in levels))
        table.add_section()
        chance = [dict(overlap=r.chance, selective=r.chance) for r in levels]
        table.add_row('by chance', *map(_cell, chance))
        console.print(table)


def _cell(measured: dict | None) -> str:
    if measured is None:
        return ''
    values = [measured.get(key) for key in ('overlap', 'selective', 'correlation')]
    return ' '.join('   -' if v is None else f'{v:.2f}'.rjust(5) for v in values)


def write_json(reports: list[LevelReport], path: Path, **about) -> None:
    """Write all numbers, and ``about`` what they were measured."""
    levels = [report.summary() for report in reports]
    path.write_text(json.dumps(dict(**about, levels=levels), indent=1) + '\n')
