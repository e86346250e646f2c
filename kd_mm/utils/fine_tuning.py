"""What schedule a student needs that is trained already: said, never changed."""

from collections.abc import Iterator, Mapping
from typing import Any

from .kinds import type_name

LR = 'optim_wrapper.optimizer.lr'
LENGTHS = ('train_cfg.max_epochs', 'train_cfg.max_iters')
# Our choice. A link moves features that are trained already, and the head must follow:
# on the digits a tenth of the rate left some methods below the student they began with.
SLOWER = SHORTER = 2
MARKS = ('begin', 'end', 'T_max', 'total_iters', 'step_size', 'milestones')


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
    given = [f'{LR}={lr / SLOWER:g}', f'{key}={shorter}']
    given += _scaled(cfg, unit == 'epochs', length, shorter)
    return (
        f'the schedule is for a student that has yet to learn ({length} {unit} from lr '
        f'{lr:g}); for one that is trained we propose {shorter} {unit} from lr '
        f'{lr / SLOWER:g}: --cfg-options {" ".join(given)}'
    )


def _at(cfg: Any, key: str) -> Any:
    """A number at a dotted key, or None."""
    for part in key.split('.'):
        cfg = cfg.get(part) if hasattr(cfg, 'get') else None
    return cfg if isinstance(cfg, int | float) else None


def _scaled(cfg: Mapping, by_epoch: bool, old: int, new: int) -> Iterator[str]:
    """Overrides that bring the marks of all schedules along."""
    schedulers = cfg.get('param_scheduler') or []
    many = not isinstance(schedulers, Mapping)
    for index, scheduler in enumerate(schedulers if many else [schedulers]):
        if scheduler.get('by_epoch', True) is not by_epoch:
            continue  # a warm-up in iterations
        where = f'param_scheduler.{index}' if many else 'param_scheduler'
        for mark in MARKS:
            if value := scheduler.get(mark):
                yield f'{where}.{mark}={_shrunk(value, new / old)}'
    for index, hook in enumerate(cfg.get('custom_hooks') or []):
        if type_name(hook) and (switch := hook.get('switch_epoch')) and by_epoch:
            yield f'custom_hooks.{index}.switch_epoch={_shrunk(switch, new / old)}'


def _shrunk(value: Any, ratio: float) -> Any:
    if isinstance(value, list | tuple):
        return f'[{",".join(str(_shrunk(item, ratio)) for item in value)}]'
    return max(1, round(value * ratio))
