"""What schedule a student needs that is trained already: said, never changed."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from ..errors import ConfigError
from .length import rescaled

LR = 'optim_wrapper.optimizer.lr'
LENGTHS = ('train_cfg.max_epochs', 'train_cfg.max_iters')
# Our choice. A link moves features that are trained already, and the head must follow:
# on the digits a tenth of the rate left some methods below the student they began with.
SLOWER = SHORTER = 2


def proposal(cfg: Mapping, options: Mapping, *, shortened: bool = False) -> str:
    """One line: the schedule of a config, one for a trained student, how to set it.

    Args:
        cfg (Config): The config of the run.
        options (Mapping): ``--cfg-options``: who sets lr has decided, who sets a length
            about that.
        shortened (bool): Whether ``--epochs`` has set the length. Defaults to False.

    Returns:
        str: The line; '' where there is nothing to propose.
    """
    lr, *lengths = (_at(cfg, key) for key in (LR, *LENGTHS))
    if LR in options or not lr:
        return ''
    slower = f'--cfg-options {LR}={lr / SLOWER:g}'
    found = [pair for pair in zip(LENGTHS, lengths, strict=True) if pair[1]]
    decided = shortened or any(key in options for key in LENGTHS)
    if decided or (found and found[0][1] == 1):  # nothing is shorter than one
        return (
            f'lr {lr:g} is for a student that has yet to learn; for one that is '
            f'trained we propose {lr / SLOWER:g}: {slower}'
        )
    if not found:
        return ''
    (key, length), shorter = found[0], max(1, round(found[0][1] / SHORTER))
    unit = key.rpartition('max_')[2]
    given = f'--epochs {shorter} {slower}'
    if unit != 'epochs':
        marks = [(key, shorter), *_marks(cfg, length, shorter)]
        given = slower + ''.join(f' {k}={v}'.replace(', ', ',') for k, v in marks)
    fewer = f'{shorter} {unit}, or fewer' if shorter > 1 else f'1 {unit[:-1]}'
    return (
        f'the schedule is for a student that has yet to learn ({length} {unit} from lr '
        f'{lr:g}); for one that is trained we propose {fewer}, from lr '
        f'{lr / SLOWER:g}: {given}'
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
        end = scheduler.get('end') or old
        if scheduler.get('by_epoch', True) or end < old:
            continue
        with suppress(ConfigError):  # one of the user's own: nobody knows its numbers
            for key, value in rescaled(scheduler, old, new).items():
                yield f'{where}.{key}', value
