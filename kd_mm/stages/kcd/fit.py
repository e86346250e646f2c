"""Fit channel maps in one pass over un-augmented training images."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from mmengine.dist import all_reduce
from torch import nn

from ...errors import ConfigError
from ...link import Link
from ...pair import FeaturePair
from ...unaugmented import feature_pairs, links_of, undisturbed
from .moments import Covariance, LevelStatistics


class Fitted(Protocol):
    """What :func:`fit_channels` asks of a stage."""

    similarity: str

    def fit(self, covariances: list[Covariance]) -> None:
        """Set the maps from the covariances of all levels."""


def fit_channels(
    model: nn.Module, stages: Sequence[Fitted], loader: Iterable[dict]
) -> int:
    """Fit :class:`kd_mm.stages.ChannelAlign` stages in one pass over ``loader``.

    A stage sees what the stages before it in its link leave. Statistics are merged
    over ranks, so every rank passes its own share of the images.

    Args:
        model (nn.Module): A distilled model, not wrapped.
        stages (Sequence[Fitted]): Stages of its links.
        loader (Iterable[dict]): Un-augmented batches.

    Returns:
        int: Number of images seen by all ranks.
    """
    links: dict[str, tuple[Link, Fitted]] = {}
    for name, link in links_of(model).items():
        for stage in stages:
            if any(stage is other for other in link.stages):
                links[name] = link, stage
    statistics: dict[str, list[LevelStatistics]] = {}
    images = torch.zeros((), device=next(model.parameters()).device)
    with undisturbed(model):
        for pairs in feature_pairs(
            model, loader, list(links), title='kd_mm: matching channels'
        ):
            for name, (link, stage) in links.items():
                pair = pairs[name]
                before, _ = link.around(stage)
                for other in before:
                    pair = other(pair)
                levels = statistics.setdefault(
                    name, [LevelStatistics([stage.similarity]) for _ in pair.student]
                )
                observe(levels, pair)
            images += len(pair.samples)
    all_reduce(images)
    for name, (_, stage) in links.items():
        if name not in statistics:
            raise ConfigError(f'links.{name}: there are no images to match channels on')
        levels = statistics[name]
        for level in levels:
            level.reduce()
        try:
            stage.fit([level.covariance(stage.similarity) for level in levels])
        except ConfigError as error:
            raise ConfigError(f'links.{name}: {error}') from error
    return int(images)


def observe(levels: Sequence[LevelStatistics], pair: FeaturePair) -> None:
    """Add one batch to the statistics of every level of a link."""
    for level, student, teacher in zip(levels, pair.student, pair.teacher, strict=True):
        level.update(student, teacher, pair.samples, pair.image_size)
