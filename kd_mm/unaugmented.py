"""Both networks on un-augmented training images, leaving the training undisturbed."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import rich.progress
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.dist import get_dist_info
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from .distiller import Distiller
from .errors import ConfigError
from .link import Link
from .pair import FeaturePair
from .utils.kinds import is_type
from .utils.randomness import kept_random


def distiller_of(model: nn.Module) -> Distiller:
    """What a distilled model carries while it trains."""
    return cast(Distiller, model.distiller)


def links_of(model: nn.Module) -> dict[str, Link]:
    """The links of a distilled model by name."""
    return cast(dict[str, Link], dict(distiller_of(model).links.items()))


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradient inside; modes and random states are put back after.

    Args:
        model (nn.Module): The student; its device's random state is kept as well.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with kept_random(next(model.parameters()).device), torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def feature_pairs(
    model: nn.Module, loader: Iterable[dict], names: Sequence[str], *, title: str
) -> Iterator[dict[str, FeaturePair]]:
    """Run student and teacher as far as the taps of some links, batch by batch.

    Meant for use inside :func:`undisturbed`.

    Args:
        model (nn.Module): A distilled model, not wrapped.
        loader (Iterable[dict]): Batches as the student's data preprocessor wants them.
        names (Sequence[str]): The links.
        title (str): Of the progress bar, which rank 0 shows.

    Yields:
        dict[str, FeaturePair]: By link, before any stage.
    """
    distiller, links = distiller_of(model), links_of(model)
    wanted = {name: float(name in names) for name in links}
    specs = {side: distiller.specs(side, wanted) for side in ('student', 'teacher')}
    rank, _ = get_dist_info()
    for batch in rich.progress.track(loader, title, transient=True, disable=rank > 0):
        data = model.data_preprocessor(batch, False)
        inputs, samples = data['inputs'], data['data_samples']
        with distiller.taps['student'].record(
            model, specs=specs['student'], stop=True
        ) as student:
            model(inputs, samples, mode='predict')
        teacher = distiller.teachers(inputs, samples, specs['teacher'])
        size = tuple(inputs.shape[2:])
        yield {
            name: distiller.pair(links[name], student, teacher, samples, size)
            for name in names
        }


def plain_loader(
    cfg: dict, dataset: Dataset | None, *, images: int | None, annotations: bool
) -> DataLoader:
    """This rank's share of the training images, without augmentation.

    The images are spread evenly over the set, the same in every run; portrait and
    landscape images come in separate batches where the data set knows sizes, because
    padding counts in the averages.

    Args:
        cfg (dict): The training config; batch size, workers and the pipeline of the
            validation (or test) set are read from it.
        dataset (Dataset, optional): The training set, whose annotations are shared
            and not loaded again. Defaults to None, built from ``cfg``.
        images (int, optional): How many images all ranks see together. Defaults to
            None, all.
        annotations (bool): Whether ground truth is needed.

    Raises:
        ConfigError: If there is no pipeline to take.
    """
    settings = cfg.get('train_dataloader') or {}
    if dataset is None:
        from mmengine.registry import DATASETS

        dataset = DATASETS.build(settings['dataset'])
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
    dataset = plain_dataset(dataset, cfg, annotations)
    try:
        chosen = spread(len(dataset), images)
    except TypeError as error:
        raise ConfigError(
            'matching channels needs training images that can be counted, and the data '
            'set is a stream'
        ) from error
    if hasattr(dataset, 'get_data_info'):
        chosen = sorted(chosen, key=lambda i: _is_portrait(dataset, i))
    rank, world = get_dist_info()
    return DataLoader(
        Subset(dataset, chosen[rank::world]),
        batch_size=settings.get('batch_size') or 2,
        num_workers=settings.get('num_workers', 0),
        collate_fn=pseudo_collate,
    )


def spread(total: int, images: int | None) -> list[int]:
    """``images`` of ``total`` indices: one out of each part, by a fixed seed."""
    if images is None or images >= total:
        return list(range(total))
    edges = np.linspace(0, total, images + 1)
    offsets = np.random.RandomState(0).rand(images)
    return [int(i) for i in edges[:-1] + offsets * np.diff(edges)]


def _is_portrait(dataset: Any, index: int) -> bool:
    info = dataset.get_data_info(index)
    return info.get('height', 0) > info.get('width', 0)


def plain_dataset(dataset: Dataset, cfg: dict, annotations: bool) -> Dataset:
    """The innermost data set of any wrappers, with the pipeline of the validation.

    A data set without a ``pipeline`` is taken as it is.

    Raises:
        ConfigError: If the config has no pipeline without augmentation.
    """
    if hasattr(dataset, 'datasets'):
        parts = [plain_dataset(part, cfg, annotations) for part in dataset.datasets]
        return ConcatDataset(parts)
    if hasattr(dataset, 'dataset'):  # repeated, balanced, mixed images, subset
        return plain_dataset(dataset.dataset, cfg, annotations)
    if not hasattr(dataset, 'pipeline'):
        return dataset
    plain = copy.copy(dataset)
    plain.pipeline = Compose(plain_pipeline(cfg, annotations))
    return plain


def plain_pipeline(cfg: dict, annotations: bool) -> list[dict]:
    """The validation pipeline; boxes are loaded before they are resized.

    MMDetection's own evaluates in the original image's pixels and loads annotations
    after resizing. Masks are left out.
    """
    pipeline = None
    for key in ('val_dataloader', 'test_dataloader'):
        pipeline = pipeline or _find_pipeline((cfg.get(key) or {}).get('dataset'))
    pipeline = pipeline or cfg.get('test_pipeline')
    if not pipeline:
        raise ConfigError(
            'matching channels reads training images without augmentation: it needs '
            'the pipeline of val_dataloader or test_dataloader, or a test_pipeline'
        )

    loaders = ('LoadAnnotations', 'LoadPanopticAnnotations')
    plain = [dict(s) for s in pipeline if not is_type(s, *loaders)]
    training = _find_pipeline((cfg.get('train_dataloader') or {}).get('dataset')) or []
    loads = next((dict(s) for s in training if is_type(s, *loaders)), None)
    if annotations and loads is not None:
        for key in ('with_mask', 'with_seg'):
            if key in loads:
                loads[key] = False
        plain.insert(1, loads)
    return plain


def _find_pipeline(dataset: Any) -> list[dict] | None:
    """The innermost pipeline in a data-set config, the first of several."""
    if not isinstance(dataset, dict):
        return None
    inner = dataset.get('dataset') or (dataset.get('datasets') or [None])[0]
    return _find_pipeline(inner) or dataset.get('pipeline')
