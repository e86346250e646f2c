"""What a model has to be to become a student."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ConfigError


class _Reached(BaseException):  # not to be caught by a student's own handlers
    """Raised in the place of ``self.loss``."""


@torch.no_grad()
def check_loss(student: nn.Module, inputs: Tensor, samples: Sequence[Any]) -> None:
    """Raise unless ``forward(mode='loss')`` calls ``self.loss`` with the batch.

    There the distillation is added; a student that computes its losses elsewhere would
    train without it. The call ends where ``self.loss`` begins, so it costs nothing.

    Args:
        student (nn.Module): The plain student.
        inputs (Tensor): ``(N, 3, H, W)``, a trial batch.
        samples (Sequence): N trial samples.

    Raises:
        ConfigError: If ``loss`` is no method, is not called, or not with the batch.
    """
    name = type(student).__name__
    remedy = (
        'Distillation adds to what loss(inputs, data_samples) returns: compute the '
        "training losses there, and call it from forward(mode='loss'), as the models "
        'of MMDetection and MMPretrain do'
    )
    if not callable(getattr(type(student), 'loss', None)):
        raise ConfigError(f'student {name} has no method loss. {remedy}')

    def reached(*args: Any, **kwargs: Any) -> None:
        raise _Reached(*args, *kwargs.values())

    why = ''
    student.loss = reached
    try:
        student(inputs, samples, mode='loss')
    except _Reached as call:
        batch = call.args[0] if call.args else None
        if isinstance(batch, Tensor) and batch.shape == inputs.shape:
            return
        raise ConfigError(
            f"student {name}: forward(mode='loss') calls self.loss with something else "
            f'than the batch. {remedy}'
        ) from None
    except Exception as error:  # noqa: BLE001  (whatever a model may do with a batch)
        why = f' (it fails before: {type(error).__name__}: {error})'
    finally:
        del student.loss
    raise ConfigError(
        f"student {name}: forward(mode='loss') does not call self.loss{why}. {remedy}"
    )


def check_saved(student: nn.Module) -> None:
    """Raise unless the state dict of a distilled student holds all of the distiller.

    Raises:
        ConfigError: If a hook of the student takes part of it away.
    """
    saved = student.state_dict()
    lost = [k for k in student.distiller.state_dict() if f'distiller.{k}' not in saved]
    if lost:
        raise ConfigError(
            f'student {type(student).__name__}: its state-dict hook removes '
            f'{len(lost)} tensors of the distiller (distiller.{lost[0]}, ...), so a '
            'run could not be resumed'
        )


def check_built(student: nn.Module, teacher: object) -> None:
    """Raise unless a built network can become a student of a teacher.

    Args:
        student (nn.Module): The network.
        teacher (object): Where the teacher comes from; of interest if it is built, too.

    Raises:
        ConfigError: If the student is distilled already, or shares weights with the
            teacher, which will be frozen.
    """
    name = type(student).__name__
    if hasattr(student, 'distiller'):
        raise ConfigError(f'student {name} is distilled already')
    if isinstance(teacher, nn.Module):
        frozen = {id(parameter) for parameter in teacher.parameters()}
        shared = [n for n, p in student.named_parameters() if id(p) in frozen]
        if shared:
            raise ConfigError(
                f'student {name} shares {len(shared)} weights with the teacher '
                f'({shared[0]}, ...): a teacher is frozen; give a copy.deepcopy of it'
            )


@contextmanager
def without_distiller(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, ``model`` is the plain student; gives the distiller."""
    distiller = model.distiller
    del model.distiller
    try:
        yield distiller
    finally:
        model.distiller = distiller
