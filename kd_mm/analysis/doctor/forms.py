"""Were the images of another form when a network was trained?"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...taps import AllTapped
from ...unaugmented import undisturbed
from ...utils.classes import classes_of
from .finding import Finding, fine, look, wrong
from .patient import BATCHES, Patient

STRANGE = 1.0  # distance as a whole from what batch normalisation knows
BETTER = 0.5  # of that distance another form of the images leaves
KNOWN = 0.9  # of the loss another form of the images leaves
IMAGENET = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])


class Distance(NamedTuple):
    """From what a batch normalisation was trained with, averaged over its channels.

    Attributes:
        means (float): Of the means, in standard deviations of then.
        spread (float): Of the standard deviations, as a logarithm of their ratio.
    """

    means: float
    spread: float

    @property
    def whole(self) -> float:
        """One number to compare."""
        return self.means + self.spread

    @property
    def told(self) -> str:
        """Both in words."""
        return (
            f'means {self.means:.2f} standard deviations from those of its training, '
            f'and variances a factor of {math.exp(2 * self.spread):.3g} from them'
        )


def statistics(patient: Patient) -> Iterator[Finding]:
    """Do the images fit what batch normalisation learnt in training?"""
    if patient.teacher_known:
        with patient.exact_teacher() as teacher:
            yield from _statistics(patient, 'teacher', teacher)
            yield from _losses(patient, 'teacher', teacher)
    yield from _statistics(patient, 'student', patient.model)  # a pretrained backbone
    if patient.student_trained:
        yield from _losses(patient, 'student', patient.model)


def _statistics(patient: Patient, side: str, model: nn.Module) -> Iterator[Finding]:
    norms = [
        (name, m)
        for name, m in model.named_modules()
        if isinstance(m, _BatchNorm)
        and not name.startswith('distiller')
        and m.running_mean is not None
        and bool(m.running_mean.any())
    ]
    if not norms:
        return
    check = f'{side} statistics'
    images = [inputs for inputs, _ in _as_got(patient, side)]
    others = _other_forms(model, images[0].shape[1])
    forms = {'as they are': lambda image: image} | others
    name, norm = norms[0]
    distances = {
        form: _distance(model, norm, [change(image) for image in images])
        for form, change in forms.items()
    }
    here = distances.pop('as they are')
    text = f'what the first batch normalisation ({name}) meets has {here.told}'
    best = min(distances, key=lambda form: distances[form].whole, default='')
    if best and here.whole > 0.1 and distances[best].whole < BETTER * here.whole:
        yield wrong(
            check,
            f'{text}; {distances[best].told} if the images came {best}',
            f'the {side} was trained on images {best}: mend its data_preprocessor',
        )
    elif here.whole > STRANGE:
        yield wrong(
            check, text, f"the {side}'s data_preprocessor or checkpoint is another's"
        )
    elif here.whole > STRANGE / 2:
        yield look(check, text, 'are these the images it was trained on?')
    else:
        yield fine(check, text)


def _as_got(patient: Patient, side: str) -> list[tuple[Tensor, Any]]:
    """Un-augmented batches as they go into a network in training."""
    found = []
    for batch in patient.plain[:BATCHES]:
        data = patient.model.data_preprocessor(batch, False)
        image, samples = data['inputs'], data['data_samples']
        if side == 'teacher' and patient.guide is not None:
            image = patient.guide.bridge(image, samples)
        found.append((image, samples))
    return found


def _losses(patient: Patient, side: str, model: Any) -> Iterator[Finding]:
    """Does the network know the labels better if images come in another form?

    The colours of natural images are so much alike that batch normalisation hardly
    tells their order; what the network finds does.
    """
    if classes_of(model) != classes_of(patient.model):
        return
    batches = _as_got(patient, side)
    here = _loss(model, batches, lambda image: image)
    if here is None or not here.isfinite().all():
        return
    check = f'{side} images'
    forms = _other_forms(model, batches[0][0].shape[1])
    there = {form: _loss(model, batches, change) for form, change in forms.items()}
    lower = {n: v for n, v in there.items() if v is not None and bool((v < here).all())}
    best = min(lower, key=lambda form: float(lower[form].mean()), default='')
    if best and float(lower[best].mean()) < KNOWN * float(here.mean()):
        yield wrong(
            check,
            f'its own loss is {here.mean():.3g} on training images, and '
            f'{lower[best].mean():.3g} if they came {best}',
            f'the {side} was trained on images {best}: mend its data_preprocessor, or '
            'how images are loaded',
        )
        return
    text = f'its own loss is {here.mean():.3g}'
    yield fine(check, f'{text}, and no other form of the images is better')


@torch.no_grad()
def _loss(
    model: Any, batches: list, change: Callable[[Tensor], Tensor]
) -> Tensor | None:
    """A network's own loss of every batch; None where it cannot be had."""
    found = []
    with undisturbed(model):
        for image, samples in batches:
            try:
                losses = model.loss(change(image), copy.deepcopy(list(samples)))
            except Exception:  # noqa: BLE001  (some have losses in training only)
                return None
            parts = [v for k, v in losses.items() if 'loss' in k]
            flat = [t for v in parts for t in (v if isinstance(v, list) else [v])]
            found.append(torch.stack([t.float().mean() for t in flat]).sum())
    return torch.stack(found)


def _other_forms(
    model: nn.Module, channels: int
) -> dict[str, Callable[[Tensor], Tensor]]:
    """What images might have been when the network was trained.

    Those of three channels might have had other colours, too.
    """
    pre: Any = model.data_preprocessor
    normalises = getattr(pre, '_enable_normalize', False)
    mean = pre.mean if normalises else torch.zeros(1, 1, 1)
    std = pre.std if normalises else torch.ones(1, 1, 1)

    def of(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """What is changed before the normalisation."""

        def changed(x: Tensor) -> Tensor:
            raw = x * std.to(x) + mean.to(x)
            return (change(raw) - mean.to(x)) / std.to(x)

        return changed

    forms = {
        'as 0..1 and not 0..255': of(lambda raw: raw / 255),
        'as 0..255 and not 0..1': of(lambda raw: raw * 255),
    }
    if normalises:
        forms['without normalisation'] = lambda x: x * std.to(x) + mean.to(x)
    if channels == 3:
        usual = [torch.tensor(v).view(3, 1, 1) for v in IMAGENET]
        forms['with red and blue swapped'] = of(lambda raw: raw.flip(1))
        forms["with ImageNet's mean and std"] = lambda x: (
            (x * std.to(x) + mean.to(x) - usual[0].to(x)) / usual[1].to(x)
        )
    return forms


@torch.no_grad()
def _distance(model: nn.Module, norm: _BatchNorm, images: list[Tensor]) -> Distance:
    """Of the statistics of images from the running ones."""
    sums: list[Tensor] = []

    def note(_: nn.Module, args: tuple) -> None:
        sums.append(args[0].detach().double().transpose(0, 1).flatten(1))
        raise AllTapped

    handle = norm.register_forward_pre_hook(note)
    try:
        with undisturbed(model):
            for image in images:
                with suppress(AllTapped):
                    model(image, mode='tensor')
    finally:
        handle.remove()
    if not sums:
        return Distance(0.0, 0.0)
    values = torch.cat(sums, 1)
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    apart = (values.mean(1) - mean) / (var + norm.eps).sqrt()
    ratio = (values.var(1) + 1e-12).log() - (var.double() + 1e-12).log()
    return Distance(float(apart.abs().mean()), float(ratio.abs().mean() / 2))
