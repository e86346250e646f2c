"""Another length of training, with all that goes along with it."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import ConfigError
from .kinds import type_name

LR = 'optim_wrapper.optimizer.lr'
LENGTHS = ('train_cfg.max_epochs', 'train_cfg.max_iters')
# Our choice. A link moves features that are trained already, and the head must follow:
# on the digits a tenth of the rate left some methods below the student they began with.
SLOWER = SHORTER = 2
MARKS = ('begin', 'end', 'T_max', 'total_iters', 'step_size', 'milestones')
# of MMDetection's and MMPretrain's hooks, in epochs
HOOK_MARKS = ('switch_epoch', 'num_last_epochs', 'begin_epoch')


def of_length(cfg: Mapping, epochs: int) -> dict[str, Any]:
    """What changes in a config if it trains for ``epochs``: every mark in proportion.

    Schedulers, moments of hooks (MMDetection's mode and pipeline switches) and of
    validation. What is in iterations, a warm-up say, stays.

    Args:
        cfg (Config): The config of a run.
        epochs (int): At least 1.

    Returns:
        dict[str, Any]: Dotted keys of the config and their new values.

    Raises:
        ConfigError: If its training is not counted in epochs.
    """
    if not (old := _at(cfg, LENGTHS[0])):
        raise ConfigError(
            f'--epochs={epochs}: the config does not count epochs; set '
            '--cfg-options train_cfg.max_iters=... and the marks of its schedule'
        )
    return {LENGTHS[0]: epochs} | dict(_scaled(cfg, True, epochs / old))


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
        marks = [(key, shorter), *_scaled(cfg, False, shorter / length)]
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


def _scaled(cfg: Mapping, by_epoch: bool, ratio: float) -> Iterator[tuple[str, Any]]:
    """Keys and values of all marks of that unit."""
    schedulers = cfg.get('param_scheduler') or []
    many = not isinstance(schedulers, Mapping)
    for index, scheduler in enumerate(schedulers if many else [schedulers]):
        if scheduler.get('by_epoch', True) is not by_epoch:
            continue  # a warm-up in iterations
        where = f'param_scheduler.{index}' if many else 'param_scheduler'
        marks = dict(_marks(scheduler, MARKS, where, ratio))
        first, last = marks.get(f'{where}.begin', 0), f'{where}.end'
        if last in marks:  # MMEngine wants some length
            marks[last] = max(marks[last], first + 1)
        yield from marks.items()
    if not by_epoch:
        return
    for index, hook in enumerate(cfg.get('custom_hooks') or []):
        if type_name(hook):
            yield from _marks(hook, HOOK_MARKS, f'custom_hooks.{index}', ratio)
    loop = cfg['train_cfg']
    yield from _marks(loop, ('val_begin',), 'train_cfg', ratio)
    if changes := loop.get('dynamic_intervals'):
        moved = [(_shrunk(at, ratio), interval) for at, interval in changes]
        yield 'train_cfg.dynamic_intervals', moved


def _marks(
    said: Mapping, names: tuple[str, ...], where: str, ratio: float
) -> Iterator[tuple[str, Any]]:
    for mark in names:
        if value := said.get(mark):
            yield f'{where}.{mark}', _shrunk(value, ratio)


def _shrunk(value: Any, ratio: float) -> Any:
    if isinstance(value, list | tuple):
        return [_shrunk(item, ratio) for item in value]
    return max(1, round(value * ratio))
