"""A few training steps on a copy: does the link teach, and what does it cost?"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn

from ...link import Link
from ...share import SETTLED
from ...utils.kinds import default_scope, type_text
from ...utils.randomness import kept_random
from .finding import Finding, fine, look, wrong
from .patient import Patient, without_amp

FAINT, STRONG = 0.01, 0.997  # shares worth a look; published recipes begin at 0.99
NOTHING, ALL = 5e-4, 0.9995  # and shares that cannot be meant
FALLS = 0.002  # part of the loss that goes in a few steps
EXPLODES = -0.5  # part of the loss that comes in a few steps
WARM_UPS = ('Linear', 'Constant', 'Warmup')  # schedulers that begin low


@dataclass
class Course:
    """What some steps showed.

    Attributes:
        losses (list[dict[str, float]]): By name, of every step.
        shares (list[dict[str, float]]): Of the gradient, by link.
        seconds (list[float]): Of every step.
        unused (list[str]): Parameters that were to learn and got no gradient.
        failure (str): Why it ended early.
        lr_divided (int): By what the learning rate was divided.
        width (int): Steps of one pass over the batches.
    """

    losses: list[dict[str, float]] = field(default_factory=list)
    shares: list[dict[str, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    failure: str = ''
    lr_divided: int = 1
    width: int = 1

    @property
    def finite(self) -> bool:
        """Whether all losses were."""
        return all(
            v == v and abs(v) < 1e30 for row in self.losses for v in row.values()
        )

    def sums(self, *, link: str | None) -> list[float]:
        """A link's loss of every step, or (None) the task's."""
        out = []
        for row in self.losses:
            if link is None:
                rows = [v for k, v in row.items() if not k.startswith('loss_kd_')]
            else:
                rows = [v for k, v in row.items() if _belongs(k, link)]
            out.append(sum(rows))
        return out

    @property
    def compares(self) -> bool:
        """Whether every batch came twice."""
        return len(self.losses) >= 2 * self.width

    def passes(self, *, link: str | None) -> list[float]:
        """The same as a mean of every whole pass: batches differ more than steps."""
        values, width = self.sums(link=link), self.width
        ends = range(width, len(values) + 1, width)
        return [sum(values[end - width : end]) / width for end in ends]

    def fall(self, *, link: str | None) -> float:
        """How much a loss fell from the first whole pass to the last, as a part."""
        passes = self.passes(link=link)
        return 1 - passes[-1] / (passes[0] + 1e-12)

    def told(self, *, link: str | None) -> str:
        """A loss in words."""
        steps = len(self.losses)
        values = self.sums(link=link)
        if self.compares:
            steps -= steps % self.width
            values = self.passes(link=link)
        return f'{values[0]:.4g} at first, {values[-1]:.4g} after {steps} steps'


def _belongs(key: str, link: str) -> bool:
    return key == f'loss_kd_{link}' or key.startswith(f'loss_kd_{link}_')


def run(patient: Patient, *, linked: bool, lr_divided: int = 1) -> Course:
    """Take the steps, on batches that come again and again.

    Args:
        patient (Patient): Whose; a copy of it trains.
        linked (bool): Whether with the distillation.
        lr_divided (int): Divides the learning rate. Defaults to 1.
    """
    course = Course(lr_divided=lr_divided, width=len(patient.batches))
    with kept_random(patient.device), default_scope(patient.cfg):
        torch.manual_seed(0)
        model = patient.copy(linked=linked)
        wrapper = _optimizer(patient, model, lr_divided)
        for step in range(patient.steps):
            batch = patient.batches[step % len(patient.batches)]
            start = time.perf_counter()
            try:
                _step(model, wrapper, batch, course)
            except Exception as error:  # noqa: BLE001  (whatever a training may do)
                course.failure = f'{type(error).__name__}: {error}'
                break
            course.seconds.append(time.perf_counter() - start)
            if not course.finite:
                break
    return course


def _optimizer(patient: Patient, model: nn.Module, lr_divided: int) -> Any:
    cfg = patient.runner.cfg.optim_wrapper.to_dict()
    if patient.device.type == 'cpu':
        without_amp(cfg)
    cfg.pop('accumulative_counts', None)
    wrapper = build_optim_wrapper(model, cfg)
    for group in wrapper.param_groups:
        group['lr'] /= lr_divided
    return wrapper


def _step(model: Any, wrapper: Any, batch: dict, course: Course) -> None:
    data = model.data_preprocessor(batch, True)
    with wrapper.optim_context(model):
        losses = model(**data, mode='loss')
    total, logs = model.parse_losses(losses)
    row = {k: float(v.detach()) for k, v in logs.items() if 'loss' in k}
    own = {k: v for k, v in row.items() if k != 'loss' or k in losses}
    course.losses.append(own)
    first = len(course.losses) == 1
    with _without_gradient(model) if first else nullcontext(course.unused) as unused:
        wrapper.update_params(total)
    course.unused = list(unused)
    measured = {
        name: (model.distiller.links[name].share or share).value
        for name, share in model.distiller.shares.items()
    }
    course.shares.append({n: float(v) for n, v in measured.items() if v is not None})


@contextmanager
def _without_gradient(model: nn.Module) -> Iterator[dict[str, nn.Parameter]]:
    """Parameters that are to learn and no backward pass reaches, by name.

    Told by the gradients themselves, as DDP does: of what an optimiser keeps SGD
    without momentum has nothing, and a pair of optimisers has it elsewhere.
    """
    left = {n: p for n, p in model.named_parameters() if p.requires_grad}
    handles = [
        p.register_post_accumulate_grad_hook(lambda _, name=name: left.pop(name, None))
        for name, p in left.items()
    ]
    try:
        yield left
    finally:
        for handle in handles:
            handle.remove()


def training(patient: Patient) -> Iterator[Finding]:
    """Shares, losses, NaN and cost, from one course with the links and one without."""
    linked = first = run(patient, linked=True)
    if not linked.failure and not _works(linked, patient):
        gentle = run(patient, linked=True, lr_divided=10)
        linked = gentle if _works(gentle, patient) or not linked.finite else linked
    plain = run(patient, linked=False, lr_divided=linked.lr_divided)
    yield from _finite(patient, linked, plain, first)
    if linked.losses and linked.finite:
        for name, link in patient.links.items():
            yield _share(name, link, linked)
            yield _falls(name, linked)
        yield _task(patient, linked, plain)
        yield _unused(patient, linked)
        yield _cost(patient, linked, plain)


def _works(course: Course, patient: Patient) -> bool:
    """Whether losses are finite and those of the links fall, where that can be told."""
    if not course.finite or not course.compares:
        return course.finite
    return all(course.fall(link=name) > FALLS for name in patient.links)


def _warms_up(patient: Patient) -> bool:
    """Whether the learning rate begins lower than the config says."""
    schedulers = patient.cfg.get('param_scheduler') or []
    schedulers = [schedulers] if isinstance(schedulers, dict) else schedulers
    early = [type_text(s) for s in schedulers if not s.get('begin')]
    return any(word in kind for kind in early for word in WARM_UPS)


def _finite(
    patient: Patient, linked: Course, plain: Course, first: Course
) -> Iterator[Finding]:
    check = 'steps'
    count = len(linked.losses)
    if linked.failure:
        alone = ', without the links too' if plain.failure else ''
        yield wrong(check, f'step {count + 1} failed{alone}: {linked.failure:.300}')
    elif not linked.finite:
        bad = [k for k, v in linked.losses[-1].items() if not abs(v) < 1e30]
        alone = 'also' if not plain.finite else 'not'
        yield wrong(
            check,
            f'{", ".join(bad)} is NaN or infinite after {count} steps, even with a '
            f'tenth of the learning rate; {alone} without the links',
            'see "NaN" in docs/troubleshooting.md',
        )
    elif linked.lr_divided > 1:
        text = f'{count} with a tenth of the learning rate; with all of it at once'
        falls = (first.fall(link=name) for name in patient.links)
        if first.finite and min(falls) > EXPLODES:
            yield fine(check, f'{text} losses do not fall yet')
        elif patient.finished or _warms_up(patient):
            yield fine(check, f'{text} losses explode, so the run needs its warm-up')
        else:
            yield look(
                check,
                f'{text} losses explode, and the run has no warm-up',
                'add one, or lower the learning rate',
            )
    else:
        yield fine(check, f'{count} steps, all losses finite')


def _share(name: str, link: Link, course: Course) -> Finding:
    """The link's part of the gradient at the tapped features."""
    check = f'{name}: gradient share'
    values = [row[name] for row in course.shares[-10:] if name in row]
    values = [v for v in values if v == v]
    steps = len(course.losses)
    if link.share is not None and (values or steps < 2):
        values = [v for v in values if v]  # 0 while nothing but the task has acted
        if not values and steps < SETTLED:
            text = f'{steps} steps are too few to measure it'
            return look(check, text, f'{SETTLED} find it: --steps {SETTLED}')
    if not values:
        return wrong(
            check, 'no gradient was seen', 'is the student detached or frozen?'
        )
    share = statistics.median(values)
    count = len(values)
    text = f'{share:.2f} of the gradient over {count} batch{"es" * (count > 1)}'
    ratio = (1 - share) / max(share, 1e-12)
    half = f'criterion.weight={link.criterion.weight * ratio:.2g} would give one half'
    if link.share is not None:
        return fine(check, f'{text}; it is brought to {link.share.full:g} by itself')
    if share < 1e-7:
        return wrong(check, f'{text}: nothing', 'the loss does not reach the student')
    if not NOTHING < share < ALL:
        effect = 'does nothing' if share < 0.5 else 'drowns the task'
        return wrong(check, f'{share:.5f} of the gradient: the link {effect}', half)
    if not FAINT < share < STRONG:
        effect = 'is faint' if share < 0.5 else 'is nearly all there is'
        return look(check, f'{text}: the link {effect}', half)
    return fine(check, f'{text}; {half}')


def _too_few(check: str, course: Course) -> Finding:
    text = f'{len(course.losses)} steps are too few to tell whether it falls'
    twice = f'go over the {course.width} batches twice: --steps {2 * course.width}'
    return look(check, text, 'mend what failed' if course.failure else twice)


def _falls(name: str, course: Course) -> Finding:
    check = f'{name}: link loss'
    text = course.told(link=name)
    if not any(course.sums(link=name)):
        return wrong(check, f'{text}: always 0', 'see the gradient share and the taps')
    if not course.compares:
        return _too_few(check, course)
    if course.fall(link=name) < FALLS:
        return look(
            check,
            f'{text}: it does not fall',
            'does its gradient reach the student? Is the learning rate right?',
        )
    return fine(check, f'{text}: it falls')


def _task(patient: Patient, linked: Course, plain: Course) -> Finding:
    check = 'task loss'
    text = linked.told(link=None)
    if not plain.finite or plain.failure:
        return look(check, f'{text}; without the links it is not finite', 'mend that')
    if not linked.compares:
        return _too_few(check, linked)
    own, alone = linked.passes(link=None), plain.passes(link=None)
    part = linked.fall(link=None)
    text += f', {alone[-1]:.4g} without the links'
    risen = own[-1] - own[0] > 0.05  # what is nearly 0 may double
    if risen and part < -0.05 and plain.fall(link=None) > part + 0.1:
        return look(check, f'{text}: the links make it rise', 'lower criterion.weight')
    if patient.student_trained and risen and part < EXPLODES:
        return look(
            check,
            f'{text}: a trained student is spoiled, by the task alone too',
            'lower the learning rate, or let a warm-up go before',
        )
    return fine(check, text)


def _unused(patient: Patient, course: Course) -> Finding:
    check = 'DDP'
    own = [n for n in course.unused if n.startswith('distiller.')]
    if own:
        return look(
            check,
            f'{len(own)} parameters of the links get no gradient ({own[0]})',
            'DDP would wait for them: leave out what does not take part',
        )
    if course.unused and not patient.cfg.get('find_unused_parameters'):
        return look(
            check,
            f'{len(course.unused)} parameters of the student get no gradient '
            f'({course.unused[0]}), with or without distillation',
            'several GPUs need find_unused_parameters=True, or freeze them',
        )
    return fine(check, 'every parameter that learns gets a gradient')


def _cost(patient: Patient, linked: Course, plain: Course) -> Finding:
    """Time of a step, and what the backward pass keeps."""
    with_, without = (
        statistics.median(c.seconds[1:] or c.seconds) for c in (linked, plain)
    )
    sizes = [_kept(patient, linked=flag) / 2**20 for flag in (True, False)]
    teacher = sum(p.numel() * p.element_size() for p in patient.teacher.parameters())
    size = len(patient.batches[0]['inputs'])
    return fine(
        'cost',
        f'a step of {size} images takes {with_:.3g} s on {patient.device.type}, '
        f'{without:.3g} s without distillation; it keeps {sizes[0]:.0f} MiB for the '
        f'backward pass and {sizes[1]:.0f} MiB without; the teacher has '
        f'{teacher / 2**20:.0f} MiB',
    )


def _kept(patient: Patient, *, linked: bool) -> int:
    """Bytes that autograd holds after a forward pass."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    model = patient.copy(linked=linked)
    with kept_random(patient.device), default_scope(patient.cfg):
        data = model.data_preprocessor(patient.batches[0], True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model(**data, mode='loss')
    return sum(seen.values())
