"""What schedule a student needs that is trained already: said, never changed."""

from collections.abc import Iterator, Mapping
from typing import Any

from .length import rescaled

LR = 'optim_wrapper.optimizer.lr'
LENGTHS = ('train_cfg.max_epochs', 'train_cfg.max_iters')
# Our choice. A link moves features that are trained already, and the head must follow:
# on the digits a tenth of the rate left some methods below the student they began with.
SLOWER = SHORTER = 2


def proposal(cfg: Mapping, options: Mapping) -> str:
    """One line: the schedule of a config, one for a trained student, how to set it.

    Args:
        cfg (Config): The config of the run.
        options (Mapping): ``--cfg-options``: who sets lr or length has decided.

    Returns:
        str: The line; '' where there is nothing to propose.
    """
    keys = (LR, *LENGTHS)
    if any(key in options for key in keys):
        return ''
    lr, *lengths = (_at(cfg, key) for key in keys)
    found = [pair for pair in zip(LENGTHS, lengths, strict=True) if pair[1]]
    if not lr or not found:
        return ''
    (key, length), shorter = found[0], max(1, round(found[0][1] / SHORTER))
    unit = key.rpartition('max_')[2]
    given = f'--cfg-options {LR}={lr / SLOWER:g}'
    if unit == 'epochs':
        given = f'--epochs {shorter} {given}'
    else:
        marks = [(key, shorter), *_marks(cfg, length, shorter)]
        given += ''.join(f' {k}={v}'.replace(', ', ',') for k, v in marks)
    return (
        f'the schedule is for a student that has yet to learn ({length} {unit} from lr '
        f'{lr:g}); for one that is trained we propose {shorter} {unit}, or fewer, from '
        f'lr {lr / SLOWER:g}: {given}'
    )


def _at(cfg: Any, key: str) -> Any:
    """A number at a dotted key, or None."""
    for part in key.split('.'):
        cfg = cfg.get(part) if hasattr(cfg, 'get') else None
    return cfg if isinstance(cfg, int | float) else None


def _marks(cfg: Mapping, old: int, new: int) -> Iterator[tuple[str, Any]]:
    """Keys and values of all schedulers in iterations."""
    schedulers = cfg.get('param_scheduler') or []
    many = not isinstance(schedulers, Mapping)
    for index, scheduler in enumerate(schedulers if many else [schedulers]):
        where = f'param_scheduler.{index}' if many else 'param_scheduler'
        if not scheduler.get('by_epoch', True) and scheduler.get('end', old) >= old:
            for key, value in rescaled(scheduler, old, new).items():
                yield f'{where}.{key}', value
