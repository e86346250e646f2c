"""Pictures of SoKD while it trains."""

from collections.abc import Mapping

from mmengine.dataset import pseudo_collate
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ..errors import ConfigError
from ..options import Count, checked
from ..registry import HOOKS


@HOOKS.register_module()
class DrawSoKDHook(Hook):
    """Draw DAM's areas and DAFA's policy into the visualisation backends.

    The first images of the validation set are drawn at the start of training and after
    every ``interval`` epochs, the policy after every epoch. What a link does not have
    is not drawn.

    Args:
        images (int): How many. Defaults to 8.
        interval (int): In epochs. Defaults to 1.
    """

    priority = 'LOW'

    @checked
    def __init__(self, images: Count = 8, interval: Count = 1) -> None:
        self.images, self.interval = images, interval

    def before_train(self, runner: Runner) -> None:
        self._draw_areas(runner, runner.epoch)

    def after_train_epoch(self, runner: Runner) -> None:
        self._draw_policies(runner, runner.epoch + 1)
        if self.every_n_epochs(runner, self.interval):
            self._draw_areas(runner, runner.epoch + 1)

    @master_only
    def _draw_areas(self, runner: Runner, epoch: int) -> None:
        from ..analysis.areas import dam_stages, view_areas
        from ..analysis.sokd_figures import areas_figure
        from ..unaugmented import plain_dataset

        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
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
            runner.visualizer.add_image(name, areas_figure(view), step=epoch)

    @master_only
    def _draw_policies(self, runner: Runner, epoch: int) -> None:
        from ..analysis.sokd_figures import policy_figure

        for link, (course, entropy) in policy_courses(
            runner.message_hub.log_scalars
        ).items():
            figure = policy_figure(course, entropy)
            runner.visualizer.add_image(f'policy_{link}', figure, step=epoch)
            last = {
                f'kd_policy/{link}/{name}_{part}': values[-1]
                for name, parts in course.items()
                for part, values in parts.items()
            }
            runner.visualizer.add_scalars(last, step=epoch)


def policy_courses(scalars: Mapping) -> dict[str, tuple[dict, list[float]]]:
    """What DAFA noted after every epoch, by link.

    Args:
        scalars (Mapping): ``log_scalars`` of MMEngine's message hub; the hub is in the
            checkpoint, so that a resumed run goes on with the same curves.

    Returns:
        dict: By link, the course by operator and part, and the entropies.
    """
    out: dict = {}
    for key, scalar in scalars.items():
        root, *path = key.split('/')
        if root != 'kd_policy' or path[-1] == 'drawn':
            continue
        course, entropy = out.setdefault(path[0], ({}, []))
        values = [float(value) for value in scalar.data[0]]
        if path[-1] == 'entropy':
            entropy += values
        else:
            course.setdefault(path[1], {})[path[2]] = values
    return out
