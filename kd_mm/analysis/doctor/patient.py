"""A run as its config asks for it, set up to be looked at and not to be kept."""

import copy
import logging
import re
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Subset

from ...distiller import Distiller
from ...errors import ConfigError
from ...link import Link
from ...schedule import Progress
from ...sizes import data_of_run
from ...teacher import Teacher
from ...teachers import with_files
from ...unaugmented import plain_loader, spread
from ...utils.kinds import default_scope, type_text
from ...utils.loading import check_fits
from ...utils.pretraining import init_parts
from ...utils.states import some
from ...utils.wrappers import unwrapped
from .finding import Finding, fine, look, wrong

BATCHES = 4  # of training images; the steps go over them again and again
UNREACHABLE = (OSError, urllib.error.URLError, ConnectionError)


class _Quiet(Runner):
    """A Runner that notes what is said instead of printing it."""

    said: list[str]

    def _log_env(self, env_cfg: dict) -> None:
        """It asks compilers for their versions, which takes seconds."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            handler.close()
        self.said = []
        logger.handlers[:] = [_Notes(self.said)]
        return logger


class _Notes(logging.Handler):
    """Keeps the warnings of this package."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        if 'kd_mm' in record.pathname and record.levelno >= self.level:
            self.said.append(record.getMessage())


@dataclass
class Patient:
    """A distilled model, its data and its training, all of them copies.

    Attributes:
        runner (Runner): Set up as for training; its loop has not run.
        images (int): How many images a check may look at.
        steps (int): How many training steps a course has.
        teacher_known (bool): Whether the teacher has the weights that the config
            names; else nothing can be said about what it knows.
        student_trained (bool): Whether all of the student comes from a checkpoint.
        finished (bool): Whether it is what a training has made, and no start of one.
        findings (list[Finding]): What setting it up has shown.
    """

    runner: Runner
    images: int
    steps: int
    teacher_known: bool
    student_trained: bool
    finished: bool = False
    findings: list[Finding] = field(default_factory=list)

    @property
    def cfg(self) -> Config:
        """The config, reduced."""
        return self.runner.cfg

    @property
    def model(self) -> Any:
        """The distilled student."""
        return unwrapped(self.runner.model)

    @property
    def distiller(self) -> Distiller:
        """Its teacher and links."""
        return self.model.distiller

    @property
    def guides(self) -> dict[str, Teacher]:
        """The teachers that have a network of their own, as findings call them."""
        guides = self.distiller.teachers.guides
        return {f'teacher {name}'.strip(): guide for name, guide in guides.items()}

    @property
    def guide(self) -> Teacher | None:
        """The first of them."""
        return next(iter(self.guides.values()), None)

    @property
    def teacher(self) -> Any:
        """The teacher's network; the student's where that teaches itself."""
        return self.model if self.guide is None else self.guide.model

    @property
    def links(self) -> dict[str, Link]:
        """The links that have a weight, by name."""
        links = dict(self.distiller.links.items())
        return {n: link for n, link in links.items() if link.criterion.weight}

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        return next(self.model.parameters()).device

    @cached_property
    def batches(self) -> list[dict]:
        """Some batches as they come in training, not preprocessed."""
        loader, found = self.runner.train_dataloader, []
        for batch in loader:
            found.append(batch)
            if len(found) == BATCHES:
                break
        return found

    @cached_property
    def plain(self) -> list[dict]:
        """Batches of training images without augmentation, with their truth."""
        cfg, dataset = self.cfg, self.runner.train_dataloader.dataset
        return list(plain_loader(cfg, dataset, images=self.images, annotations=True))

    @cached_property
    def validation(self) -> DataLoader | None:
        """Some of the validation images; None where there are none."""
        loop = self.runner.val_loop
        if loop is None:
            return None
        dataset = loop.dataloader.dataset
        return DataLoader(
            Subset(dataset, spread(len(dataset), self.images)),
            batch_size=loop.dataloader.batch_size or 1,
            collate_fn=loop.dataloader.collate_fn or pseudo_collate,
        )

    @contextmanager
    def exact_teacher(self, guide: Teacher | None = None) -> Iterator[Any]:
        """A teacher in fp32, its weights rounded where it is stored in half."""
        guide = guide or self.guide
        network, dtype = (guide.whole(), guide.dtype) if guide else (self.model, None)
        if dtype:
            network.float()
        try:
            yield network
        finally:
            network.to(dtype)  # None: as it is

    def copy(self, *, linked: bool = True) -> Any:
        """A student to be trained and thrown away; it shares the teacher."""
        model = copy.deepcopy(self.model)
        model.distiller.share_interval = int(linked)
        model.distiller.watch.stop = False
        for link in model.distiller.links.values():
            link.criterion.weight *= float(linked)
        return model.train()


def admit(
    cfg: Config, folder: str, *, student: str | None, images: int, steps: int
) -> tuple[Patient | None, list[Finding]]:
    """Set a run up; what is in the way is noted and, where possible, left out.

    Args:
        cfg (Config): A config that distils; it is copied.
        folder (str): An empty folder for what a runner writes.
        student (str, optional): Checkpoint of the student.
        images (int): How many images a check may look at.
        steps (int): How many steps a course of training has.

    Returns:
        tuple[Patient | None, list[Finding]]: None if it cannot be built at all; and
        what was found.
    """
    cfg = reduced(cfg, folder, student=student, images=images)
    findings: list[Finding] = []
    known = True
    while True:
        try:
            with default_scope(cfg):
                runner = _set_up(copy.deepcopy(cfg))
            break
        except (ConfigError, *UNREACHABLE) as error:
            text = ' '.join(str(error).split())
            left_out = _leave_out(cfg, text, error)
            findings.append(wrong(_subject(text), text, left_out))
            if not left_out:
                return None, findings
            known = known and not _is_random(cfg.model.teacher)
    findings += _its_own_weights(cfg, runner)
    patient = Patient(
        runner,
        images,
        steps,
        teacher_known=known and not isinstance(cfg.model.teacher, str),
        student_trained=bool(cfg.get('load_from')),
        finished=bool(student),
    )
    with default_scope(cfg):
        patient.findings = findings + list(_begin(patient))
    return patient, patient.findings


def _its_own_weights(cfg: Config, runner: Runner) -> Iterator[Finding]:
    """Whether the student's checkpoint is one of it: MMEngine takes any."""
    if not (path := cfg.get('load_from')):
        return
    trust = any(part.get('trust') for part in with_files(cfg.model.teacher).values())
    try:
        lost = check_fits(runner.model, path, key='load_from', trust=trust)
    except ConfigError as error:
        cfg.load_from = None
        remedy = 'give a checkpoint of this student; the rest is looked at without'
        yield wrong('student checkpoint', str(error), remedy)
        return
    if lost:
        text = f'{len(lost)} tensors of the student are not in {path}: {some(lost)}'
        yield look('student checkpoint', text, 'they start anew; is that meant?')


def reduced(cfg: Config, folder: str, *, student: str | None, images: int) -> Config:
    """The config without workers, files, plots and large batches."""
    cfg = copy.deepcopy(cfg)
    cfg.work_dir, cfg.resume, cfg.launcher = folder, False, 'none'
    cfg.experiment_name, cfg.log_level = 'doctor', 'WARNING'
    cfg.pop('runner_type', None)
    cfg.visualizer = None
    hooks = cfg.setdefault('default_hooks', {})
    hooks.update(checkpoint=None, logger=None)
    hooks.pop('visualization', None)
    if student:
        cfg.load_from = student
        cfg.model.pop('inherit', None)  # what a run began with; it has learnt since
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if loader := cfg.get(key):
            loader.update(num_workers=0, persistent_workers=False)
            loader.pop('prefetch_factor', None)
            if isinstance(size := loader.get('batch_size'), int):
                loader.batch_size = min(size, max(2, images // BATCHES))
    return cfg


def _set_up(cfg: Config) -> Runner:
    """All that ``Runner.train`` does, except to train."""
    runner = _Quiet.from_cfg(cfg)
    with data_of_run(runner._train_dataloader):
        loop: Any = runner.build_train_loop(runner._train_loop)
    runner._train_loop = loop
    if torch.device(next(runner.model.parameters()).device).type == 'cpu':
        without_amp(runner.optim_wrapper)
    loop.run = lambda: None
    runner.train()
    del loop.run
    return runner


def without_amp(wrapper: Any) -> None:
    """Take an accelerator's mixed precision out of a config: there is none on a CPU."""
    kind = type_text(wrapper)
    if kind.endswith('AmpOptimWrapper') and 'CPU' not in kind:
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
        wrapper['type'] = 'OptimWrapper'


def _subject(text: str) -> str:
    """What a refusal is about."""
    return next((w for w in ('teacher', 'links', 'student') if w in text), 'config')


def _leave_out(cfg: Config, text: str, error: Exception) -> str:
    """Take away what was refused; says what, or '' if there is nothing to take."""
    model = cfg.model
    named = model.get('links')  # a dict, 'auto', 'sokd', nothing
    named = named if isinstance(named, dict) else {}
    links = [n for n in named if f'links.{n}' in text]
    if links and len(named) > 1:
        named.pop(links[0])
        return f'the rest is looked at without links.{links[0]}'
    unread = isinstance(error, UNREACHABLE) or 'cannot be fetched' in text
    about = re.search(r'teacher(\.\w+)?\.checkpoint', text) or 'does not cover' in text
    for name, teacher in with_files(model.teacher).items() if about else ():
        named_so = not name or f'teacher.{name}' in text
        if named_so and not teacher.get('allow_random'):
            teacher.update(checkpoint=None, allow_random=True)
            return 'the rest is looked at with a random teacher in its place'
    if unread and _strip(model.student):
        return 'the rest is looked at with a random student in its place'
    return ''


def _is_random(teacher: Any) -> bool:
    """Whether weights were left out."""
    parts = with_files(teacher).values()
    return any(part.get('checkpoint', '') is None for part in parts)


def _strip(part: Any) -> bool:
    """Remove pretrained starts; whether there was one."""
    found = False
    if isinstance(part, dict):
        files, others = init_parts(part.get('init_cfg'))
        if files:
            part['init_cfg'], found = others or None, True
        for value in part.values():
            found = _strip(value) or found
    elif isinstance(part, list | tuple):
        for value in part:
            found = _strip(value) or found
    return found


def _begin(patient: Patient) -> Iterator[Finding]:
    """What the hooks do before the first step, at the first moment all links run."""
    runner = patient.runner
    names = patient.distiller.teachers.names
    if len(names) > 1:
        text = f'{", ".join(names)}: weights and metric of each, the rest of the first'
        yield fine('teachers', text)
    _jump(patient)
    yield from _call(runner, 'before_train')
    yield from _call(runner, 'before_train_epoch')
    _limit(patient)
    first = patient.batches[0]
    patient.model.train()
    yield from _call(runner, 'before_train_iter', batch_idx=0, data_batch=first)
    for text in runner.said:
        yield look('warnings', text, 'see docs/troubleshooting.md')
    factors = patient.distiller.factors()
    for name, link in patient.distiller.links.items():
        if not factors[name]:
            why = 'its weight is 0' if not link.criterion.weight else 'by its schedule'
            yield look(
                f'links.{name}',
                f'the link does not run: {why}',
                'give criterion.weight, or a schedule that training reaches',
            )


def _call(runner: Runner, event: str, **kwargs: Any) -> Iterator[Finding]:
    """Let the hooks act; what they refuse, or fail at, is a row."""
    try:
        runner.call_hook(event, **kwargs)
    except ConfigError as error:
        yield wrong(_subject(str(error)), str(error))
    except Exception as error:  # noqa: BLE001  (hooks may be anybody's)
        text = ' '.join(f'{type(error).__name__}: {error}'.split())[:300]
        yield look('hooks', f'{event} fails: {text}', 'would training begin?')


def _limit(patient: Patient) -> None:
    """Stages that go through images before they work have no more than the checks."""
    for link in patient.links.values():
        for stage in link.stages:
            if hasattr(stage, 'images') and hasattr(stage, 'due'):
                stage.images = min(stage.images or patient.images, patient.images)


def _jump(patient: Patient) -> None:
    """Go to the first twentieth of training in which every link has its full factor."""
    runner = patient.runner
    loop: Any = runner.train_loop
    for part in range(20):
        loop._iter = part * (runner.max_iters or 0) // 20
        if all(_at_work(link, runner) for link in patient.links.values()):
            break
    else:
        loop._iter = 0
    length = len(runner.train_dataloader) if runner.max_epochs else 1
    loop._epoch = loop._iter // max(length, 1)


def _at_work(link: Link, runner: Runner) -> bool:
    due = all(s.due(runner) for s in link.stages if hasattr(s, 'due'))
    return due and link.schedule.factor(Progress.of(runner)) > 0.999
