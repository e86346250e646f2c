"""The training loop's events, brought to the distiller."""

import functools
from collections.abc import Iterator

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ..analysis.evaluate import evaluate
from ..errors import ConfigError
from ..registry import HOOKS
from ..sizes import data_of_run
from ..teacher import Teacher
from .restore_hook import RestoreHook


def attach_to_runners() -> None:
    """Give every Runner whose model is distilled the hooks it needs.

    A model cannot ask for a hook in MMEngine, and one more line in every user's config
    is easily forgotten. The Runner builds its model before its hooks, so this wraps
    ``Runner.register_hooks``; other models are not touched. ``Runner.build_model`` is
    wrapped too, to tell the model which images it will be trained on.
    """
    if hasattr(Runner.register_hooks, '__wrapped__'):
        return
    original = Runner.register_hooks

    @functools.wraps(original)
    def register_hooks(self, default_hooks=None, custom_hooks=None):
        original(self, default_hooks, custom_hooks)
        if _distiller(self) is None:
            return
        for kind in (DistillHook, RestoreHook):
            if not any(isinstance(hook, kind) for hook in self.hooks):
                self.register_hook(kind())

    Runner.register_hooks = register_hooks
    build = Runner.build_model

    @functools.wraps(build)
    def build_model(self, model):
        with data_of_run(self._train_dataloader):
            return build(self, model)

    Runner.build_model = build_model


def _student(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _distiller(runner: Runner):
    return getattr(_student(runner), 'distiller', None)


@HOOKS.register_module()
class DistillHook(Hook):
    """Evaluates the teacher, and serves the stages.

    Present in every run of a distilled model without being asked for.
    """

    priority = 'NORMAL'

    def _stages(self, runner: Runner) -> Iterator:
        for link in _distiller(runner).links.values():
            yield from link.stages

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Weights that are lost replace no good checkpoint."""
        if not _distiller(runner).watch.stop:
            return
        state = checkpoint['state_dict']
        parameters = _student(runner).named_parameters()
        trained = [name for name, p in parameters if p.requires_grad]
        lost = [n for n in trained if n in state and not state[n].isfinite().all()]
        if lost:
            raise ConfigError(
                f'after {runner.iter} iterations {len(lost)} of {len(trained)} weights '
                f'are NaN or infinite ({lost[0]}, ...), so no checkpoint is written; '
                'see "NaN" in docs/troubleshooting.md (model.stop_on_nan=False goes on '
                'all the same)'
            )

    def before_train(self, runner: Runner) -> None:
        teacher = _distiller(runner).teacher
        teacher.check_differs(_student(runner))
        if teacher.validate:
            self._validate(runner, teacher)
        for stage in self._stages(runner):
            stage.before_train(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        for stage in self._stages(runner):
            stage.before_train_epoch(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        for stage in self._stages(runner):
            stage.after_train_epoch(runner)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None
    ) -> None:
        for stage in self._stages(runner):
            stage.before_train_iter(runner, data_batch)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        for stage in self._stages(runner):
            stage.after_train_iter(runner)

    @staticmethod
    def _validate(runner: Runner, teacher: Teacher) -> None:
        """Evaluate the teacher as the student will be: same data, same metric.

        Decoding and suppression of boxes want fp32: a teacher in bf16 or fp16 is
        evaluated with its rounded weights, in fp32.
        """
        loop = runner.val_loop
        if loop is None:
            raise ConfigError('teacher.validate=True needs a val_dataloader')
        if teacher.dtype:
            teacher.model.float()
        metrics = evaluate(teacher.model, loop.dataloader, loop.evaluator)
        if teacher.dtype:
            teacher.model.to(teacher.dtype)
        text = ', '.join(f'{name} {value:.4f}' for name, value in metrics.items())
        runner.logger.info(f'kd_mm: the teacher on the validation set: {text}')
