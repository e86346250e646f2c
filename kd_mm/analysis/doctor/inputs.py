"""What both networks really get: values, colours, padding, and the same images."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .finding import Finding, fine, look, wrong
from .patient import Patient


@contextmanager
def first_input(model: nn.Module, channels: int) -> Iterator[list[Tensor]]:
    """Note what the first layer gets in the next forward pass.

    That is the last ``(N, channels, H, W)`` on the way to the first layer with weights,
    so what wrappers do to the images is in it.
    """
    seen: list[Tensor] = []
    done: list[bool] = []

    def note(module: nn.Module, args: tuple) -> None:
        if done:
            return
        image = next((a for a in args if isinstance(a, Tensor) and a.ndim == 4), None)
        if image is not None and image.shape[1] == channels:
            seen[:] = [image.detach()]
        if seen and next(module.parameters(recurse=False), None) is not None:
            done.append(True)

    skip = (model, getattr(model, 'data_preprocessor', None))
    handles = [
        m.register_forward_pre_hook(note)
        for name, m in model.named_modules()
        if m not in skip and not name.startswith('distiller')
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def same_images(patient: Patient) -> Iterator[Finding]:
    """Does the teacher see in training what the student sees?"""
    check = 'same images'
    if patient.guide is None:
        return
    model = patient.copy()
    data = model.data_preprocessor(patient.batches[0], True)
    inputs, samples = data['inputs'], data['data_samples']
    channels = inputs.shape[1]
    with first_input(model, channels) as own:
        model.loss(inputs, samples)  # with gradients: DAFA's policy takes some
    with torch.no_grad(), first_input(patient.teacher, channels) as theirs:
        specs = patient.distiller.specs('teacher', dict.fromkeys(patient.links, 1.0))
        patient.distiller.teachers(inputs, samples, specs)
    if not own or not theirs:
        yield look(check, 'the first layers take no images', 'look at both yourself')
        return
    expected = patient.guide.bridge(own[0], samples)
    text = difference(expected.float(), theirs[0].float())
    yield from _values(patient, own[0], theirs[0])
    if text:
        yield wrong(
            check,
            f'the first layers of student and teacher get different images: {text}',
            'let nothing but the data_preprocessor change the batch: what a network '
            'does to its own input the other one does not see',
        )
    else:
        yield fine(check, f'both get the same {tuple(inputs.shape)} images')


def difference(expected: Tensor, found: Tensor) -> str:
    """How one batch differs from another, '' where it does not.

    Args:
        expected (Tensor): ``(N, C, H, W)``.
        found (Tensor): The same, or other sizes.
    """
    if expected.shape != found.shape:
        return f'{tuple(expected.shape)} and {tuple(found.shape)}'
    scale = expected.std() + 1e-6

    def far(image: Tensor) -> float:
        return float((image - found).abs().mean() / scale)

    if far(expected) < 0.02:
        return ''
    others: dict[str, Tensor] = dict(
        mirrored=expected.flip(3), upside_down=expected.flip(2)
    )
    if expected.shape[1] == 3:
        others['with red and blue swapped'] = expected.flip(1)
    fit = _fit(expected, found)
    others['in another range or normalisation'] = fit
    name = min(others, key=lambda key: far(others[key]))
    if far(others[name]) < 0.1 * far(expected):
        return name.replace('_', ' ')
    return f'{far(expected):.2g} standard deviations apart on average'


def _fit(image: Tensor, target: Tensor) -> Tensor:
    """``image`` with the gain and offset per channel that come nearest."""
    dims = (0, 2, 3)
    x, y = image.mean(dims, keepdim=True), target.mean(dims, keepdim=True)
    gain = ((image - x) * (target - y)).mean(dims, keepdim=True)
    gain = gain / ((image - x).square().mean(dims, keepdim=True) + 1e-12)
    return (image - x) * gain + y


def _values(patient: Patient, own: Tensor, theirs: Tensor) -> Iterator[Finding]:
    """Are the values such as a network can work on?"""
    loud = {}
    for side, image in (('student', own), ('teacher', theirs)):
        mean, std = float(image.float().mean()), float(image.float().std())
        pre = getattr(patient, 'model' if side == 'student' else 'teacher')
        normalises = getattr(pre.data_preprocessor, '_enable_normalize', False)
        loud[side] = (mean, std, normalises)
    text = ', '.join(
        f'{side} mean {m:.2f}, std {s:.2f}' for side, (m, s, _) in loud.items()
    )
    check = 'image values'
    for side, (mean, std, normalises) in loud.items():
        if std < 1e-6:
            yield wrong(check, f'the {side} gets one and the same value everywhere')
            return
        if normalises and (abs(mean) > 3 or not 0.05 < std < 6):
            yield wrong(
                check,
                f'{text}: not what normalised images look like',
                f"mean and std of the {side}'s data_preprocessor are for another range "
                '(0..1 or 0..255), or the pipeline normalises already',
            )
            return
    if loud['teacher'][2] and not loud['student'][2] and loud['student'][1] > 6:
        yield look(
            check,
            f'{text}: the student gets its images as they are, the teacher normalised',
            "is a mean and std missing in the student's data_preprocessor?",
        )
        return
    ranges = [_largest(b) for b in (patient.batches[0], patient.plain[0])]
    if max(ranges) > 20 * max(min(ranges), 1e-6):
        yield wrong(
            check,
            f'training images go to {ranges[0]:.3g} and validation images to '
            f'{ranges[1]:.3g} before the data_preprocessor',
            'one of the pipelines scales or normalises; the data_preprocessor does',
        )
        return
    yield fine(check, text)


def _largest(batch: dict) -> float:
    inputs = batch['inputs']
    images = [inputs] if isinstance(inputs, Tensor) else inputs
    return max(float(image.float().abs().max()) for image in images)
