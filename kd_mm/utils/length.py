"""Another length of training, and all that is counted in epochs with it."""

import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from ..errors import ConfigError, within
from .kinds import is_type, type_name

# MMEngine's and MMDetection's, without what they schedule
SCHEDULERS = (
    'Constant', 'CosineAnnealing', 'CosineRestart', 'Exponential', 'Linear',
    'MultiStep', 'OneCycle', 'Poly', 'QuadraticWarmup', 'ReduceOnPlateau', 'Step',
)  # fmt: skip
WARM_UPS = tuple(
    name + what
    for name in ('Constant', 'Linear', 'QuadraticWarmup')
    for what in ('LR', 'Momentum', 'ParamScheduler')
)
HOOKS = ('switch_epoch', 'num_last_epochs', 'begin_epoch')
DISTILLER = ('optim_wrapper', 'paramwise_cfg', 'distiller', 'param_scheduler')


def set_length(cfg: MutableMapping, epochs: int) -> None:
    """Train for ``epochs``: everything that counts them moves in proportion.

    Schedulers, also those of the distiller's own optimiser; moments of hooks (mode,
    pipeline and recipe switches), of validation and of heads (TOOD's first assigner);
    warm-ups, searches and fits of links that are written out. What came before the end
    still does. What is counted in iterations, a warm-up say, stays.

    Args:
        cfg (Config): The config of a run, changed in place.
        epochs (int): At least 1.

    Raises:
        ConfigError: If its training is not counted in epochs, or a scheduler is of a
            kind that is not known.
    """
    loop = cfg['train_cfg']
    old = loop.get('max_epochs')
    if not old:
        raise ConfigError(
            f'--epochs={epochs}: the config does not count epochs; set '
            '--cfg-options train_cfg.max_iters=... and the marks of its schedule'
        )
    for where, schedulers in _schedulers(cfg):
        for index, scheduler in enumerate(schedulers):
            if not scheduler.get('by_epoch', True):
                _check_warm_up(scheduler, f'--epochs={epochs}: {where}.{index}')
            else:
                with within(f'--epochs={epochs}: {where}.{index} '):
                    scheduler.update(rescaled(scheduler, old, epochs))

    def at(epoch: int) -> int:
        return moment(epoch, old, epochs)

    for hook in (
        *(cfg.get('custom_hooks') or ()),
        *(cfg.get('default_hooks') or {}).values(),
    ):
        if type_name(hook):
            _change(hook, HOOKS, at)
            _recipes(hook, at)
    _change(loop, ('max_epochs', 'val_begin'), at)
    loop['max_epochs'] = epochs
    if changes := loop.get('dynamic_intervals'):
        loop['dynamic_intervals'] = [(at(epoch), often) for epoch, often in changes]
    model = cfg.get('model') or {}
    for part in (model, model.get('student')):
        if isinstance(part, Mapping) and isinstance(part.get('train_cfg'), Mapping):
            _change(part['train_cfg'], ('initial_epoch',), at)
    if isinstance(model.get('links'), Mapping):
        for link in model['links'].values():
            _link(link, epochs / old)


def moment(epoch: int, old: int, new: int) -> int:
    """Where an epoch of a training comes to lie in one of another length.

    At 1 or later; before the end if it was.
    """
    moved = int(epoch * new / old + 0.5)
    return max(1, min(moved, new - 1) if epoch < old else moved)


def rescaled(scheduler: Mapping, old: int, new: int) -> dict[str, Any]:
    """What changes in a scheduler that counts what there are ``old`` or ``new`` of.

    Raises:
        ConfigError: If its kind is not known.
    """
    kind = re.sub('(LR|Momentum|ParamScheduler)$', '', type_name(scheduler))
    if kind not in SCHEDULERS:
        raise ConfigError(
            f'{type_name(scheduler)} is no scheduler of MMEngine: how it depends on '
            'the length of training is not known; set both by --cfg-options'
        )
    begin, end = scheduler.get('begin') or 0, scheduler.get('end') or old
    found: dict[str, Any] = {}
    first = min(moment(begin, old, new), new - 1) if begin else 0
    last = max(moment(end, old, new), first + 1)  # MMEngine wants some length
    if begin:
        found['begin'] = first
    if begin or 'end' in scheduler:
        found['end'] = last
    lengths = {end - begin: last - first, end: last, old: new}
    for key in ('T_max', 'total_iters', 'total_steps'):
        if value := scheduler.get(key):
            found[key] = lengths.get(value) or max(1, round(value * new / old))
    if milestones := scheduler.get('milestones'):
        found['milestones'] = _apart(milestones, old, new)
    if periods := scheduler.get('periods'):
        found['periods'] = _periods(periods, new / old)
    return found | _decay(scheduler, kind, new / old)


def _apart(milestones: list[int], old: int, new: int) -> list[int]:
    """One after the other, as far as there is room."""
    found: list[int] = []
    latest = 0
    for mark in sorted(milestones, reverse=True):
        latest = max(1, min(moment(mark, old, new), latest - 1 if found else old * new))
        found.insert(0, latest)
    return found


def _periods(periods: list[int], ratio: float) -> list[int]:
    """As many, which together are as long as all of them shall be."""
    found = [max(1, round(period * ratio)) for period in periods]
    return [*found[:-1], max(1, round(sum(periods) * ratio) - sum(found[:-1]))]


def _decay(scheduler: Mapping, kind: str, ratio: float) -> dict[str, Any]:
    """Steps as far apart as they should be, or a factor that makes up for it."""
    if kind == 'Exponential':
        return dict(gamma=scheduler['gamma'] ** (1 / ratio))
    if kind != 'Step':
        return {}
    wanted = scheduler['step_size'] * ratio
    step = max(1, round(wanted))
    gamma = scheduler.get('gamma', 0.1)
    return dict(step_size=step, gamma=gamma ** (step / wanted))


def _schedulers(cfg: Mapping) -> Iterator[tuple[str, list]]:
    """Those of the run, and those of the distiller's own optimiser."""
    own: Any = cfg
    for key in DISTILLER:
        own = own.get(key) if hasattr(own, 'get') else None
    for where, found in (
        ('param_scheduler', cfg.get('param_scheduler')),
        ('.'.join(DISTILLER), own),
    ):
        many = [found] if isinstance(found, Mapping) else found
        yield where, [one for one in many or () if isinstance(one, Mapping)]


def _check_warm_up(scheduler: Mapping, place: str) -> None:
    """What counts iterations stays as it is, which only a warm-up can."""
    if is_type(scheduler, *WARM_UPS):
        return
    raise ConfigError(
        f'{place} {type_name(scheduler)} counts iterations and would not end with the '
        'training; say by_epoch=True, convert_to_iter_based=True and epochs, or set '
        'train_cfg.max_epochs and its length by --cfg-options'
    )


def _change(said: MutableMapping, keys: tuple[str, ...], how: Callable) -> None:
    for key in keys:
        if value := said.get(key):
            said[key] = how(value)


def _recipes(hook: MutableMapping, at: Callable[[int], int]) -> None:
    """MMPretrain's ``SwitchRecipeHook``: no two switches at once."""
    if not is_type(hook, 'SwitchRecipeHook'):
        return
    last = 0
    for recipe in hook.get('schedule') or ():
        if recipe.get('action_epoch'):
            recipe['action_epoch'] = last = max(at(recipe['action_epoch']), last + 1)


def _link(link: MutableMapping, ratio: float) -> None:
    """Lengths of a link and its stages, which need not be whole."""

    def part(value: float) -> float:
        return round(value * ratio, 4)

    def whole(value: Any) -> Any:
        return value if isinstance(value, str) else max(1, round(value * ratio))

    for own, keys in (
        (link.get('schedule'), ('warmup', 'decay', 'stop')),
        (link.get('share'), ('freeze_after', 'stop_after')),
        *((stage, ('start', 'search_epochs')) for stage in link.get('stages') or ()),
    ):
        if isinstance(own, MutableMapping) and own.get('by_epoch', True):
            _change(own, keys, part)
            _change(own, ('fit_at', 'every'), whole)
