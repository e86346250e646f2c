"""The training loop's events, brought to the distiller."""

import functools
import sys
from collections.abc import Iterator

import torch
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.runner._flexible_runner import FlexibleRunner
from torch import nn

from ..analysis.evaluate import evaluate
from ..bare import Bare, name_of
from ..colours import prepare
from ..errors import ConfigError
from ..link import Link
from ..optimizers import clipped, separate_schedules, untrained
from ..preprocess import normalised_before, unknown_pixels
from ..registry import HOOKS
from ..schedule import Progress, takes_note
from ..sizes import data_of_run
from ..teacher import Teacher
from ..teachers import within_teacher
from ..utils.classes import differing
from ..utils.kinds import is_type
from ..utils.randomness import kept_random
from ..utils.wrappers import unwrapped
from .restore_hook import RestoreHook
from .unlabelled import Stream, stream_of
from .watch import Watch

STRATEGIES = ('SingleDeviceStrategy', 'DDPStrategy')  # of a FlexibleRunner


def attach_to_runners() -> None:
    """Give every runner whose model is distilled the hooks it needs.

    A model cannot ask for a hook in MMEngine, and one more line in every user's config
    is easily forgotten. A FlexibleRunner builds its model after its hooks, so this
    wraps ``call_hook``; other models are not touched. Where models are built is wrapped
    too, to tell them which images they will be trained on.
    """
    if hasattr(Runner.call_hook, '__wrapped__'):
        return
    Runner.build_model = _telling_links(_telling_data(Runner.build_model))
    FlexibleRunner.train = _telling_data(FlexibleRunner.train)
    for kind in (Runner, FlexibleRunner):
        kind.call_hook = _serving(kind.call_hook)


def _telling_data(original):
    @functools.wraps(original)
    def build(self, *args):
        with data_of_run(self._train_dataloader):
            return original(self, *args)

    return build


def _telling_links(original):
    @functools.wraps(original)
    def build(self, *args):
        model = original(self, *args)
        _write_links(self, unwrapped(model))
        return model

    return build


def _write_links(runner: Runner, model: nn.Module) -> bool:
    """Put links that were found by themselves into the runner's config.

    Whoever trains the written config again finds nothing anew.

    Returns:
        bool: Whether they were not there yet.
    """
    cfg = runner.cfg.get('model')
    distiller = getattr(model, 'distiller', None)
    if distiller is None or not is_type(cfg, 'kd_mm.Distill'):
        return False
    if isinstance(cfg.get('links'), dict):
        return False
    cfg['links'] = distiller.links_config
    return True


def _serving(original):
    @functools.wraps(original)
    def call_hook(self, fn_name, **kwargs):
        if _distiller(self) is not None:
            for kind in (DistillHook, RestoreHook):
                if not any(isinstance(hook, kind) for hook in self.hooks):
                    self.register_hook(kind())
        original(self, fn_name, **kwargs)

    return call_hook


def _student(runner: Runner) -> nn.Module:
    return unwrapped(runner.model)


def _distiller(runner: Runner):
    if not isinstance(runner.model, nn.Module):  # not built yet
        return None
    return getattr(_student(runner), 'distiller', None)


def _restart_workers(runner: Runner) -> None:
    """Let workers that are there before training see how the pipeline is by now.

    MMEngine 0.10 starts those of an IterBasedTrainLoop while it is built. What they
    have fetched ahead comes again, so the student sees the images it always did.
    """
    loader = runner.train_dataloader
    endless = getattr(runner.train_loop, 'dataloader_iterator', None)
    if endless is None or endless._iterator is None or not loader.num_workers:
        return
    if hasattr(loader.sampler, '_indices_of_rank'):  # MMEngine's, without an end
        loader.sampler.indices = loader.sampler._indices_of_rank()
    loader._iterator = None  # workers that persist would come back
    with torch.random.fork_rng(devices=[]):
        endless._iterator = iter(loader)


@HOOKS.register_module()
class DistillHook(Hook):
    """Says where training is, evaluates the teacher, and serves the stages.

    Present in every run of a distilled model without being asked for.
    """

    priority = 'NORMAL'

    def __init__(self) -> None:
        self._active: set[str] = set()  # links in the last iteration
        self._watch = Watch()
        self._unlabelled: Stream | None = None

    def _stages(self, runner: Runner) -> Iterator:
        for link in _distiller(runner).links.values():
            yield from link.stages

    def before_run(self, runner: Runner) -> None:
        strategy = type(getattr(runner, 'strategy', None)).__name__
        if strategy not in (*STRATEGIES, 'NoneType'):
            raise ConfigError(
                f'strategy={strategy}: a model cannot be distilled under it; there are '
                f"{', '.join(STRATEGIES)}, and MMEngine's plain Runner"
            )
        separate_schedules(runner)
        if _write_links(runner, _student(runner)):  # a FlexibleRunner wrote it before
            runner.dump_config()

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
        distiller = _distiller(runner)
        distiller.progress = Progress.of(runner)
        for name, link in distiller.links.items():
            if not link.criterion.weight:
                continue
            try:
                self._check_time(runner, link, distiller.found_by)
                if link.share is not None and not runner._resume:
                    link.share.restart()
                self._check_batch_size(runner, link)
                for part in (*link.stages, link.criterion):
                    part.before_train(runner)
            except ConfigError as error:
                text = str(error).removeprefix(f'links.{name}: ')
                raise ConfigError(f'links.{name}: {text}') from error
        for text in untrained(runner.optim_wrapper, _student(runner)):
            runner.logger.warning(f'kd_mm: {text}')
        if text := clipped(runner.optim_wrapper, _student(runner)):
            runner.logger.warning(f'kd_mm: {text}')
        self._watch.begin(runner)
        if text := differing(_student(runner), runner.train_dataloader.dataset):
            runner.logger.warning(
                f"kd_mm: model.student: {text}; set num_classes of the student's "
                'heads, or metainfo.classes of the data set'
            )
        self._unlabelled = stream_of(runner, distiller)
        self._check_images(runner)
        for name, guide in distiller.teachers.guides.items():
            with within_teacher(name):
                guide.check_differs(_student(runner))
            if guide.validate:
                self._validate(runner, guide, name)
        if not runner._resume:
            for average in distiller.teachers.averages.values():
                average.restart()

    def before_train_epoch(self, runner: Runner) -> None:
        """Behind the hooks that switch pipelines, before the loader starts workers.

        Workers that persist are ended by those hooks.
        """
        if _distiller(runner).teachers.plain_colours:
            dataset = runner.train_dataloader.dataset
            prepare(dataset, _student(runner), again=runner.iter > 0)
            _restart_workers(runner)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None
    ) -> None:
        distiller = _distiller(runner)
        distiller.progress = Progress.of(runner)
        for stage in self._stages(runner):
            stage.before_train_iter(runner, data_batch)
        if self._unlabelled is not None:
            distiller.unlabelled = next(self._unlabelled)
        active = {name for name, factor in distiller.factors().items() if factor}
        if active != self._active and 'torch._dynamo' in sys.modules:
            # Taps are hooks. What was compiled without them does not look for any, and
            # what was compiled with them goes on to call them.
            torch.compiler.reset()
        self._active = active

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        _distiller(runner).settle()  # before a checkpoint is written
        for stage in self._stages(runner):
            stage.after_train_iter(runner)
        if takes_note(runner):
            progress = Progress.of(runner, ahead=1)
            for stage in self._stages(runner):
                stage.note(runner, progress)
            self._watch.note(runner, dict(_distiller(runner).links.items()), progress)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._watch.validated(runner, metrics)

    @staticmethod
    def _check_time(runner: Runner, link: Link, found_by: str) -> None:
        """Whoever has only named a method has no option to make smaller."""
        try:
            link.check_time(Progress.of(runner))
        except ConfigError as error:
            if not found_by:
                raise
            epochs = isinstance(runner.train_loop, EpochBasedTrainLoop)
            option = '--epochs' if epochs else '--cfg-options train_cfg.max_iters'
            raise ConfigError(
                f'{error}; it comes from {found_by}: {option} trains longer, and the '
                'config in the work dir of such a run has the links to be changed'
            ) from error

    @staticmethod
    def _check_batch_size(runner: Runner, link: Link) -> None:
        loader = runner.train_dataloader
        size = getattr(loader, 'batch_size', None)  # None with a batch sampler
        if size is None and hasattr(loader, 'batch_sampler'):
            size = getattr(loader.batch_sampler, 'batch_size', None)
        if size == 1 and link.too_few_in_one:
            raise ConfigError(
                f'{link.too_few_in_one} says nothing about a single image, and '
                'train_dataloader.batch_size is 1'
            )

    def _check_images(self, runner: Runner) -> None:
        """Whether the teachers' images can be made from the student's batch."""
        teachers = _distiller(runner).teachers
        own = _student(runner).data_preprocessor
        datasets = [runner.train_dataloader.dataset]
        datasets += [self._unlabelled.loader.dataset] if self._unlabelled else []
        texts = []
        for name, guide in teachers.guides.items():
            if name in teachers.averages:  # prepares its images as the student does
                continue
            theirs = guide.model.data_preprocessor
            texts.append(unknown_pixels(own, 'model.student.data_preprocessor'))
            with within_teacher(name):
                key = 'teacher.config.data_preprocessor'
                texts.append(unknown_pixels(theirs, key))
                for dataset in datasets:
                    texts += normalised_before(guide.bridge, own, theirs, dataset)
        for text in filter(None, dict.fromkeys(texts)):
            runner.logger.warning(f'kd_mm: {text}')

    @staticmethod
    def _validate(runner: Runner, teacher: Teacher, name: str) -> None:
        """Evaluate the teacher as the student will be: same data, same metric.

        Decoding and suppression of boxes want fp32: a teacher in bf16 or fp16 is
        evaluated with its rounded weights, in fp32. Iterators of loaders draw random
        numbers: the student's training goes on with those that it would have had, and
        workers that persist start when they would have.
        """
        loop = runner.val_loop
        if loop is None:
            raise ConfigError('teacher.validate=True needs a val_dataloader')
        network = teacher.model
        if isinstance(network, Bare) or not getattr(network, 'with_head', True):
            raise ConfigError(
                f'teacher.validate=True: {name_of(network)} has no head and predicts '
                'nothing; leave it out'
            )
        loader = loop.dataloader
        device = next(teacher.model.parameters()).device
        try:
            if teacher.dtype:
                teacher.model.float()
            with kept_random(device):
                metrics = evaluate(teacher.model, loader, loop.evaluator)
        finally:
            if teacher.dtype:
                teacher.model.to(teacher.dtype)
            if getattr(loader, '_iterator', None) is not None:
                loader._iterator = None
        who = f'the teacher{name and f" {name}"}'
        if not metrics:
            runner.logger.warning(
                f'kd_mm: {who} finds nothing at all on the validation set, so there is '
                'no metric: look at its checkpoint, classes, colour order and image '
                'range (`doctor` does)'
            )
            return
        text = ', '.join(f'{key} {value:.4f}' for key, value in metrics.items())
        runner.logger.info(f'kd_mm: {who} on the validation set: {text}')
