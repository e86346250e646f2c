"""Would the networks overflow in half precision?"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...utils.kinds import type_text
from ...utils.randomness import kept_random
from .finding import Finding, fine, look, wrong
from .patient import Patient

HALF = 65504  # the largest number of fp16


@contextmanager
def _largest(model: nn.Module) -> Iterator[dict[str, float]]:
    """The magnitude of what every module gives."""
    seen: dict[str, float] = {}

    def note(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
            value = float(output.detach().abs().max())
            value = value if value == value else math.inf  # NaN comes of overflow
            seen[name] = max(seen.get(name, 0.0), value)

    handles = [
        m.register_forward_hook(lambda _, __, out, name=name: note(name, out))
        for name, m in model.named_modules()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def half_precision(patient: Patient) -> Iterator[Finding]:
    """Would the networks overflow in fp16?"""
    wrapper = patient.cfg.optim_wrapper
    amp = 'Amp' in type_text(wrapper)
    teacher_half = patient.guide is not None and patient.guide.dtype == torch.float16
    half = amp and str(wrapper.get('dtype')) not in ('bfloat16', 'torch.bfloat16')
    if not (half or teacher_half):
        return
    model = patient.copy()
    data = model.data_preprocessor(patient.batches[0], True)
    both = _largest(model), _largest(patient.teacher)
    with (
        kept_random(patient.device),
        torch.no_grad(),
        both[0] as own,
        both[1] as theirs,
    ):
        model(**data, mode='loss')
    for side, seen in (('student', own), ('teacher', theirs)):
        name = max(seen, key=lambda n: seen[n], default='')
        if not name or seen[name] < HALF / 4:
            continue
        verdict = wrong if seen[name] > HALF else look
        yield verdict(
            'fp16',
            f'{name} of the {side} reaches {seen[name]:.3g}; fp16 ends at {HALF}',
            "bfloat16 (optim_wrapper.dtype, teacher dtype='bf16') has no such end",
        )
        return
    top = max([*own.values(), *theirs.values()])
    yield fine('fp16', f'the largest value is {top:.3g}, fp16 ends at {HALF}')
