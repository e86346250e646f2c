"""Images without labels, beside those that the run trains on."""

from collections.abc import Iterator

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..colours import prepare
from ..distiller import Distiller
from ..errors import ConfigError
from ..utils.wrappers import unwrapped

KEY = 'unlabelled_dataloader'


class Stream:
    """Batches of a loader without end, from any place in it.

    Args:
        loader (DataLoader): Its sampler is told the number of the pass.
        done (int): How many batches have been taken before.
    """

    def __init__(self, loader: DataLoader, done: int) -> None:
        self.loader = loader
        endless = isinstance(loader.sampler, InfiniteSampler)
        self._passes, self._skip = (0, done) if endless else divmod(done, len(loader))
        self._batches: Iterator[dict] | None = None

    def __next__(self) -> dict:
        if self._batches is None:
            self._batches = self._begin()
        try:
            return next(self._batches)
        except StopIteration:
            self._passes += 1
            self._batches = self._begin()
            return next(self._batches)

    def _begin(self) -> Iterator[dict]:
        if hasattr(self.loader.sampler, 'set_epoch'):
            self.loader.sampler.set_epoch(self._passes)
        with torch.random.fork_rng(devices=[]):  # the loader draws a seed for workers
            batches = iter(self.loader)
        for _ in range(self._skip):
            next(batches)
        self._skip = 0
        return batches


def stream_of(runner: Runner, distiller: Distiller) -> Stream | None:
    """The run's images without labels, where its config has some and a link uses them.

    A resumed run goes on where the other was: a batch goes with every iteration.

    Raises:
        ConfigError: If a link reads what such images do not have, no link uses them,
            a link wants some and there are none, or has a share and nothing else.
    """
    cfg = runner.cfg.get(KEY)
    wanted = {n: link.images for n, link in distiller.links.items()}
    if cfg is None:
        for name, images in wanted.items():
            if images == 'unlabelled':
                raise ConfigError(f"links.{name}.images='unlabelled' needs {KEY}")
        return None
    if all(images == 'labelled' for images in wanted.values()):
        raise ConfigError(f"{KEY}: all links have images='labelled', so none uses it")
    for name, link in distiller.links.items():
        if link.images == 'labelled':
            continue
        if reads := link.reads_labels():
            raise ConfigError(
                f'links.{name}: {reads} reads the ground truth, which the images of '
                f"{KEY} do not have; say links.{name}.images='labelled'"
            )
        if link.images == 'unlabelled' and link.share is not None:
            raise ConfigError(
                f"links.{name}.share is measured beside the task's gradient, and the "
                f'images of {KEY} have no task: set criterion.weight instead, or '
                f"links.{name}.images='all'"
            )
    if not any(link.criterion.weight for link in distiller.links.values()):
        return None  # the baseline
    loader = Runner.build_dataloader(cfg, seed=runner.seed)
    if distiller.teachers.plain_colours:
        prepare(loader.dataset, unwrapped(runner.model))
    return Stream(loader, runner.iter)
