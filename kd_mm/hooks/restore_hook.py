"""What a checkpoint gives back: all of it to a resumed run, or a refusal."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import nn

from ..errors import ConfigError
from ..link import levels_by_side
from ..utils.config_text import read_config_text
from ..utils.kinds import is_type, listed, type_name
from ..utils.states import DISTILLER, WRAPPERS, compare, some, unlike
from ..utils.wrappers import unwrapped


class RestoreHook(Hook):
    """Compares a distilled model with the checkpoint that it is resumed from.

    MMEngine loads non-strictly: what is missing, has another shape or another name
    keeps its random start, with a warning at most. So names and shapes are compared
    before anything is loaded, and what the links are, which their tensors need not
    show; afterwards the values that arrived: of the student, the distiller, and the
    average if the run keeps one. ``load_from`` starts anew: of
    a distiller only what fits is taken.

    Present in every run of a distilled model without being asked for.
    """

    priority = 'ABOVE_NORMAL'  # before EMAHook takes its part of the checkpoint

    def __init__(self) -> None:
        self._expected: dict | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """The file has been read; nothing is loaded yet."""
        if not isinstance(checkpoint, dict):
            raise ConfigError(
                f'load_from: the file holds a {type(checkpoint).__name__}, not '
                'weights; write them with torch.save(model.state_dict(), path)'
            )
        if 'state_dict' not in checkpoint:
            self._unfold(checkpoint, resume=runner._resume)
        if not runner._resume:
            _check_inherited(_model(runner), checkpoint)
            self._leave_out(runner, checkpoint)
            return
        if 'ema_state_dict' in checkpoint and not any(_averages(runner)):
            raise ConfigError(
                'cannot resume: the run kept an average of its weights and this one '
                'has no EMAHook, so it would go on from the average; add the hook, or '
                'start anew with load_from'
            )
        for where, module, state in _sides(runner, checkpoint):
            _check_names(where, module, state)
        _check_links(_model(runner).distiller.links_config, _links(checkpoint))
        self._expected = checkpoint

    def before_train(self, runner: Runner) -> None:
        """Everything is loaded; not a step is done yet."""
        checkpoint, self._expected = self._expected, None
        if checkpoint is None:
            return
        for where, module, state in _sides(runner, checkpoint):
            state = {WRAPPERS.sub('', k): v for k, v in state.items()}
            # an extra state of another size is left to its stage, which tells why
            lost = unlike(_own(module), state)
            if lost:
                raise ConfigError(
                    f'cannot resume: {where}{len(lost)} tensors are in the checkpoint '
                    f'but did not arrive ({some(lost)}): something that loads them '
                    f'({type(module).__name__}, a hook) renames or changes them'
                )

    @staticmethod
    def _unfold(checkpoint: dict, *, resume: bool) -> None:
        """Make the checkpoint of a run out of a bare state dict, in place."""
        if resume:
            raise ConfigError(
                'cannot resume: the file holds weights only, no optimiser and no place '
                'in training; start anew with load_from'
            )
        state = checkpoint.copy()
        if hasattr(checkpoint, '_metadata'):  # versions of modules, for their hooks
            state = type(checkpoint)(state)
            vars(state)['_metadata'] = vars(checkpoint)['_metadata']
        checkpoint.clear()
        checkpoint['state_dict'] = state

    @staticmethod
    def _leave_out(runner: Runner, checkpoint: dict) -> None:
        """Take another distiller out of a checkpoint: its tensors fit nothing."""
        own = _own(_model(runner))
        for key in ('state_dict', 'ema_state_dict'):
            state = checkpoint.get(key) or {}
            plain = {WRAPPERS.sub('', name): name for name in state}
            ours = {name: state[plain[name]] for name in plain if _is_ours(name)}
            fitting = {name: v for name, v in own.items() if name in ours}
            _, foreign, shapes = compare(fitting, ours)
            left = [*foreign, *shapes]
            for name in left:
                del state[plain[name]]
            if left and key == 'state_dict':
                MMLogger.get_current_instance().info(
                    f'load_from: {len(left)} tensors of another distiller are left '
                    f'out ({some(left)})'
                )


def _check_inherited(model: nn.Module, checkpoint: dict) -> None:
    """Refuse weights for what has the teacher's: those of a file come last."""
    names = [WRAPPERS.sub('', name) for name in checkpoint['state_dict']]
    for part in getattr(model, 'inherited', ()):
        if any(name.startswith(f'{part}.') for name in names):
            raise ConfigError(
                f'load_from has weights of {part!r}, which would take the place of '
                f'those that model.inherit takes from the teacher: leave out one of '
                'the two (--cfg-options model.inherit=[])'
            )


def _is_ours(name: str) -> bool:
    return name.startswith(DISTILLER)


def _model(runner: Runner) -> nn.Module:
    return unwrapped(runner.model)


def _own(module: nn.Module) -> dict[str, Any]:
    return {WRAPPERS.sub('', name): v for name, v in module.state_dict().items()}


def _averages(runner: Runner) -> Iterator[nn.Module]:
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            yield hook.ema_model


def _sides(
    runner: Runner, checkpoint: dict
) -> Iterator[tuple[str, nn.Module, Mapping[str, Any]]]:
    yield '', _model(runner), checkpoint['state_dict']
    if 'ema_state_dict' in checkpoint:
        for average in _averages(runner):
            yield 'the average: ', average, checkpoint['ema_state_dict']


def _check_names(where: str, module: nn.Module, state: Mapping[str, Any]) -> None:
    """Names and shapes, for the student and for the distiller.

    Raises:
        ConfigError: Naming what is missing, what is not known, and both shapes.
    """
    theirs = {WRAPPERS.sub('', name): value for name, value in state.items()}
    found = compare(_own(module), theirs)
    what = []
    for part, ours in (('distiller', True), ('student', False)):
        missing, foreign, shapes = (
            [name for name in names if _is_ours(name) is ours] for names in found
        )
        # an extra state is judged by the stage that reads it
        texts = [found[2][n] for n in shapes if not n.endswith('._extra_state')]
        says = [f'lacks {len(missing)} tensors ({some(missing)})'] * bool(missing)
        says += [f'has {len(foreign)} unknown ones ({some(foreign)})'] * bool(foreign)
        says += [f'has {len(texts)} of other shapes ({some(texts)})'] * bool(texts)
        if says:
            what.append(f'the {part} in the checkpoint {" and ".join(says)}')
    if what:
        raise ConfigError(
            f'cannot resume: {where}{"; ".join(what)}; it was trained with other '
            'links, or another student or teacher. Use load_from to start anew from '
            'its student'
        )


def _links(checkpoint: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """``links`` of the config in a checkpoint; None where it does not say them."""
    try:
        cfg = read_config_text(checkpoint['meta']['cfg'], where='the config')
    except (ConfigError, KeyError, TypeError):  # of a runner without a config, say
        return None
    model = cfg.get('model')
    links = model.get('links') if is_type(model, 'kd_mm.Distill') else None
    return links if isinstance(links, Mapping) else None


def _check_links(ours: Mapping[str, Any], theirs: Mapping[str, Any] | None) -> None:
    """What is compared, and by which parts. Their options may change.

    Raises:
        ConfigError: Naming what differs first.
    """
    if theirs is None:
        return
    before, now = (
        {
            f'links.{name}{key and f".{key}"}': value
            for name, link in links.items()
            for key, value in _essence(link).items()
        }
        for links in (theirs, ours)
    )
    for key in (*before, *now):
        if before.get(key) != now.get(key):
            was, is_now = (side.get(key, 'not there') for side in (before, now))
            raise ConfigError(
                f'cannot resume: {key} is {was} in the checkpoint, and now {is_now}; '
                'go on with the links that it was trained with, begin a new run in '
                'another --work-dir, or use load_from to start anew from its student'
            )


def _essence(link: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a link this one, in plain values; '' stands for the link itself."""
    taps = {side: listed(link[side]) for side in ('student', 'teacher')}
    levels = levels_by_side(link.get('levels'))
    chosen = {f'levels.{side}': v for side, v in levels.items()}
    stages = [_kinds(stage) for stage in link.get('stages') or ()]
    criterion = _kinds(link['criterion'])
    return {'': 'there', 'criterion': criterion, 'stages': stages, **taps, **chosen}


def _kinds(part: Mapping[str, Any]) -> str:
    """The type of a part, and those of the parts within it: 'HeadLoss(BoxLoss)'."""
    inside = []
    for value in part.values():
        many = value if isinstance(value, list | tuple) else [value]
        inside += [_kinds(one) for one in many if isinstance(one, Mapping)]
    names = ', '.join(filter(None, inside))
    return f'{type_name(part)}({names})' if names else type_name(part)
