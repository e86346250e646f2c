"""Heads that say something else in training than in prediction."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from .taps import Recording, Taps
from .trial import trial


def tell_own_modes(
    student: nn.Module,
    taps: Taps,
    predicting: Recording,
    inputs: Tensor,
    samples: Sequence[Any],
) -> None:
    """Warn of a tapped head whose values depend on its own mode.

    The student is tapped in training and the teacher in prediction. A head that
    multiplies by its stride in prediction only (FCOS with ``norm_on_bbox``) gives
    equal shapes and other numbers, and nothing else shows it. So the head alone is put
    into training, without what is in it, and the pass in prediction run again.

    Args:
        student (nn.Module): A copy that may run.
        taps (Taps): Its taps, all of which fired in ``predicting``.
        predicting (Recording): What they gave in prediction.
        inputs (Tensor): The images of that pass.
        samples (Sequence): Its data samples.
    """
    heads = {
        spec: student.get_submodule(tap.path)
        for spec, tap in taps.taps.items()
        if tap.side == 'output'
    }
    heads = {spec: module for spec, module in heads.items() if hasattr(module, 'loss')}
    if not heads:
        return
    with _in_training(heads.values()):
        other = trial(student, taps, inputs, samples, mode='predict')
    for spec in heads if other.useful else ():
        tap = taps.taps[spec]
        pairs = zip(
            predicting.features(tap), other.recording.features(tap), strict=False
        )
        for plain, own in pairs:
            if plain.shape == own.shape and not torch.allclose(plain, own, rtol=1e-3):
                MMLogger.get_current_instance().warning(
                    f'kd_mm: {spec} of the student says something else in training '
                    f'than in prediction, which is how the teacher runs (a factor of '
                    f'{float(own.norm() / plain.norm()):.3g}): the two are not '
                    'comparable; tap what stands in front of that, such as the last '
                    'layers of the head, or use kd_mm.CrossKD'
                )
                break


@contextmanager
def _in_training(modules: Iterable[nn.Module]) -> Iterator[None]:
    """These modules in training while they run, what is in them as it is."""

    handles = []
    for module in {id(m): m for m in modules}.values():
        handles += [
            module.register_forward_pre_hook(
                lambda m, *_: setattr(m, 'training', True)
            ),
            module.register_forward_hook(lambda m, *_: setattr(m, 'training', False)),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def as_in_prediction(model: nn.Module) -> Iterator[None]:
    """A detector that does not know it is trained; its layers do, dropout acts.

    DETRs in training read the ground truth (denoising queries), and give their heads
    what only a loss takes.
    """
    before, model.training = model.training, False
    try:
        yield
    finally:
        model.training = before
