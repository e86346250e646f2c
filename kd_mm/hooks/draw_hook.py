"""Pictures of SoKD while it trains."""

from collections.abc import Mapping

from mmengine.dataset import pseudo_collate
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..errors import ConfigError
from ..options import Count, checked
from ..registry import HOOKS
from ..schedule import Progress, passed, takes_note
from ..utils.wrappers import unwrapped


@HOOKS.register_module()
class DrawSoKDHook(Hook):
    """Draw DAM's areas and DAFA's policy into the visualisation backends.

    The first images of the validation set are drawn at the start of training and after
    every ``interval`` epochs, the policy after every epoch, in an iteration-based run
    at least 20 times. What a link does not have is not drawn.

    Args:
        images (int): How many. Defaults to 8.
        interval (int): Between pictures of areas. Defaults to 1.
        by_epoch (bool): Whether ``interval`` is in epochs; in iterations otherwise.
            Defaults to True.
    """

    priority = 'LOW'

    @checked
    def __init__(
        self, images: Count = 8, interval: Count = 1, by_epoch: bool = True
    ) -> None:
        self.images, self.interval, self.by_epoch = images, interval, by_epoch

    def before_train(self, runner: Runner) -> None:
        progress = Progress.of(runner)
        progress.check('DrawSoKDHook.interval', self.interval, self.by_epoch)
        self._draw_areas(runner, _step(runner, progress))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        step = _step(runner, Progress.of(runner, ahead=1))
        if takes_note(runner):
            self._draw_policies(runner, step)
        if passed(runner, self.interval, by_epoch=self.by_epoch):
            self._draw_areas(runner, step)

    @master_only
    def _draw_areas(self, runner: Runner, step: int) -> None:
        from ..analysis.areas import dam_stages, view_areas
        from ..analysis.sokd_figures import areas_figure
        from ..unaugmented import plain_dataset

        model = unwrapped(runner.model)
        try:
            dam_stages(model)
        except ConfigError:
            return
        if runner.val_loop is None:
            raise ConfigError('DrawSoKDHook draws validation images: no val_dataloader')
        # MMDetection's own validation pipeline leaves boxes in the original's pixels
        dataset = plain_dataset(runner.val_loop.dataloader.dataset, runner.cfg, True)
        batches = [
            pseudo_collate([dataset[i]]) for i in range(min(self.images, len(dataset)))
        ]
        for i, view in enumerate(view_areas(model, batches)):
            name = f'areas_{view.link}_{i:02d}'
            runner.visualizer.add_image(name, areas_figure(view), step=step)

    @master_only
    def _draw_policies(self, runner: Runner, step: int) -> None:
        from ..analysis.sokd_figures import policy_figure

        for link, (course, entropy, when) in policy_courses(
            runner.message_hub.log_scalars
        ).items():
            figure = policy_figure(course, entropy, when)
            runner.visualizer.add_image(f'policy_{link}', figure, step=step)
            last = {
                f'kd_policy/{link}/{name}_{part}': values[-1]
                for name, parts in course.items()
                for part, values in parts.items()
            }
            runner.visualizer.add_scalars(last, step=step)


def _step(runner: Runner, progress: Progress) -> int:
    """What the backends number pictures by: epochs, or iterations where those count."""
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    return int(progress.at(by_epoch))


def policy_courses(scalars: Mapping) -> dict[str, tuple[dict, list[float], tuple]]:
    """What DAFA noted in the course of training, by link.

    Args:
        scalars (Mapping): ``log_scalars`` of MMEngine's message hub; the hub is in the
            checkpoint, so that a resumed run goes on with the same curves.

    Returns:
        dict: By link, the course by operator and part, the entropies, and when that
        was: 'epoch' or 'iteration', and the numbers.
    """
    out: dict = {}
    for key, scalar in scalars.items():
        root, *path = key.split('/')
        if root != 'kd_policy' or path[-1] == 'drawn':
            continue
        course, entropy, when = out.setdefault(path[0], ({}, [], {}))
        values = [float(value) for value in scalar.data[0]]
        if path[-1] == 'entropy':
            entropy += values
        elif path[-1] in ('epoch', 'iteration'):
            when[path[-1]] = values
        else:
            course.setdefault(path[1], {})[path[2]] = values
    for link, (course, entropy, when) in out.items():
        epochs = [float(i + 1) for i in range(len(entropy))]
        unit, numbers = next(iter(when.items()), ('epoch', epochs))
        out[link] = course, entropy, (unit, numbers)
    return out
