"""What trains the modules that only distil: the student's optimiser, or their own."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mmengine.optim import (
    ConstantLR,
    DefaultOptimWrapperConstructor,
    OptimWrapper,
    OptimWrapperDict,
)
from mmengine.registry import OPTIMIZERS
from mmengine.runner import Runner
from torch import nn
from torch.optim import Optimizer

from .errors import ConfigError
from .registry import OPTIM_WRAPPER_CONSTRUCTORS
from .student import without_distiller
from .utils.wrappers import unwrapped


class OptimizerPair(Optimizer):
    """Two optimisers behind the interface of one.

    Schedulers, gradient clipping and loss scaling see the groups of both. For those
    schedulers that change the momentum every group has one: Adam's is its first beta.

    Args:
        first (Optimizer): Its groups come first; its learning rate is the one logged.
        second (Optimizer): Of other parameters.
        schedule (Sequence[dict]): Schedulers of the second's own, see
            :func:`separate_schedules`. Defaults to none: it follows the first's.
    """

    def __init__(
        self, first: Optimizer, second: Optimizer, *, schedule: Sequence[dict] = ()
    ) -> None:
        self.both = (first, second)
        self.schedule = list(schedule)
        super().__init__([*first.param_groups, *second.param_groups], {})
        self._show_momentum()

    def _show_momentum(self) -> None:
        for group in self.param_groups:
            if 'betas' in group:
                group.setdefault('momentum', group['betas'][0])
        own = {k: v for k, v in self.both[0].defaults.items() if k != 'betas'}
        if all('momentum' in group for group in self.param_groups):
            own['momentum'] = self.param_groups[0]['momentum']
        self.defaults = own

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Let both take their step."""
        for group in self.param_groups:
            if 'betas' in group:
                group['betas'] = (group['momentum'], *group['betas'][1:])
        loss = self.both[0].step(closure)
        self.both[1].step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return dict(both=[optimizer.state_dict() for optimizer in self.both])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if 'both' not in state_dict:
            raise ConfigError(
                'cannot resume: the checkpoint was written with one optimiser for '
                'everything, this run has one of its own for the distiller'
            )
        for optimizer, state in zip(self.both, state_dict['both'], strict=True):
            optimizer.load_state_dict(state)
        # loading makes new groups
        self.param_groups = [g for one in self.both for g in one.param_groups]
        self._show_momentum()


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DistillerOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Train adapters, heads and decoders with another optimiser than the student.

    DPK's authors train their modules with AdamW beside the student's SGD. In a config::

        optim_wrapper = dict(
            constructor='kd_mm.DistillerOptimWrapperConstructor',
            paramwise_cfg=dict(
                distiller=dict(
                    type='AdamW', lr=1e-4, betas=(0.9, 0.95), weight_decay=1e-4)))

    ``distiller`` may have a ``paramwise_cfg`` (``flat_decay_mult=0.0``: no weight decay
    of biases and norms) and a ``param_scheduler`` of its own, both as MMEngine knows
    them; without the latter the student's schedule scales both rates. The rest of the
    outer ``paramwise_cfg`` is the student's, as always. Where PyTorch has the optimiser
    in one pass over the parameters (``fused=True``), that is taken unless ``fused`` or
    ``foreach`` is said: a third of the time for AdamW on a CPU, the same to rounding.

    Raises:
        ConfigError: Without ``paramwise_cfg.distiller``, or if there is nothing for it
            to train.
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None
    ) -> None:
        paramwise = dict(paramwise_cfg or {})
        self.distiller_cfg = paramwise.pop('distiller', None)
        if not isinstance(self.distiller_cfg, dict) or 'type' not in self.distiller_cfg:
            raise ConfigError(
                'DistillerOptimWrapperConstructor needs optim_wrapper.paramwise_cfg.'
                'distiller=dict(type="AdamW", lr=...)'
            )
        super().__init__(optim_wrapper_cfg, paramwise)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        inner = unwrapped(model)
        distiller = getattr(inner, 'distiller', nn.Identity())
        trained = [p for p in distiller.parameters() if p.requires_grad]
        if not trained:
            raise ConfigError(
                'optim_wrapper.paramwise_cfg.distiller: no link of the model has '
                'parameters to train'
            )
        with without_distiller(inner):
            wrapper = super().__call__(model)
        cfg = dict(self.distiller_cfg)
        schedule = cfg.pop('param_scheduler', ())
        paramwise = cfg.pop('paramwise_cfg', None)
        if fusible(cfg, trained[0]):
            cfg['fused'] = True
        build = DefaultOptimWrapperConstructor(
            dict(type='OptimWrapper', optimizer=cfg), paramwise
        )
        second = build(distiller).optimizer
        wrapper.optimizer = OptimizerPair(
            wrapper.optimizer,
            second,
            schedule=[schedule] if isinstance(schedule, dict) else schedule,
        )
        return wrapper


def fusible(cfg: dict, parameter: nn.Parameter) -> bool:
    """Whether an optimiser takes ``fused=True`` here, and nobody chose otherwise.

    Args:
        cfg (dict): Of an optimiser.
        parameter (nn.Parameter): One of those that it will train.
    """
    if {'fused', 'foreach', 'capturable', 'differentiable'} & cfg.keys():
        return False
    try:
        OPTIMIZERS.build(dict(cfg, params=[parameter], fused=True))
    except (RuntimeError, TypeError):  # not on this device, or not with this class
        return False
    return True


def separate_schedules(runner: Runner) -> None:
    """Let the distiller's optimiser follow its own schedule, and only that.

    To be called when the Runner has built its schedulers and before it loads a
    checkpoint; those of the distiller then stand behind the student's in it.
    """
    pair = getattr(runner.optim_wrapper, 'optimizer', None)
    if not isinstance(pair, OptimizerPair) or not pair.schedule:
        return
    if not isinstance(runner, Runner):
        raise ConfigError(
            "optim_wrapper.paramwise_cfg.distiller.param_scheduler needs MMEngine's "
            f'Runner, not a {type(runner).__name__}; leave it out'
        )
    first, second = pair.both
    schedulers = list(runner.param_schedulers or [])
    for scheduler in schedulers:  # made for the groups of both
        scheduler.optimizer = first
        scheduler.base_values = scheduler.base_values[: len(first.param_groups)]
    for group in second.param_groups:
        for key in [key for key in group if f'initial_{key}' in group]:
            group[key] = group[f'initial_{key}']
    # gives `first` the counter of steps that schedulers look for; changes nothing else
    ConstantLR(first, factor=1.0)
    own = runner._build_param_scheduler(pair.schedule, second)
    runner.param_schedulers = schedulers + own


def groups_of(wrapper: OptimWrapper) -> list[dict]:
    """The parameter groups of all optimisers in a wrapper."""
    if isinstance(wrapper, OptimWrapperDict):
        return [group for one in wrapper.values() for group in groups_of(one)]
    return list(getattr(wrapper, 'param_groups', ()))


def left_out(wrapper: OptimWrapper, model: nn.Module) -> list[str]:
    """Parameters of a model that could learn, and that no optimiser has."""
    trained = {id(p) for group in groups_of(wrapper) for p in group['params']}
    learn = ((n, p) for n, p in model.named_parameters() if p.requires_grad)
    return [name for name, parameter in learn if id(parameter) not in trained]


def clipped(wrapper: OptimWrapper, model: nn.Module) -> str:
    """What to warn of: a share whose gradient shortens the student's own steps.

    An optimiser that divides by the gradient's size (Adam and its kind) does not mind.

    Args:
        wrapper (OptimWrapper): Of the run, or several in a dict.
        model (nn.Module): The distilled model, not wrapped.
    """
    links = model.distiller.links.items()
    shares = {n: k.share.full for n, k in links if k.share and k.criterion.weight}
    several = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    for one in several:
        clip = getattr(one, 'clip_grad_kwargs', None)
        plain = any('betas' not in group for group in getattr(one, 'param_groups', ()))
        for name, share in shares.items() if clip and plain else ():
            return (
                f'links.{name}.share={share:g}: what the link adds counts in clip_grad '
                f"({clip}), which then shortens the student's own steps; compare "
                'grad_norm in the log with that of the student alone, and raise '
                'optim_wrapper.clip_grad.max_norm by as much'
            )
    return ''


def untrained(wrapper: OptimWrapper, model: nn.Module) -> Iterator[str]:
    """What to warn of: links of which no optimiser has all parameters.

    Optimisers that hold copies of the weights (fp32 ones of half-precision weights)
    have none of the student's either, and nothing can be said of them.

    Args:
        wrapper (OptimWrapper): Of the run, or several in a dict.
        model (nn.Module): The distilled model, not wrapped.

    Raises:
        ConfigError: If a link has parameters and all are left out. A stage or
            criterion of somebody else's may train its own: that is no error.
    """
    out = set(left_out(wrapper, model))
    students = [n for n, p in model.named_parameters() if p.requires_grad]
    if all(name in out for name in students if not name.startswith('distiller.')):
        return
    for key, link in model.distiller.links.items():
        prefix = f'distiller.links.{key}.'
        learn = [f'{prefix}{n}' for n, p in link.named_parameters() if p.requires_grad]
        lost = [name for name in learn if name in out]
        if not lost or not link.criterion.weight:
            continue
        text = (
            f'links.{key}: {len(lost)} of its {len(learn)} parameters are in no '
            f'optimiser and never learn ({lost[0]}): let optim_wrapper.constructor '
            "take all of model.parameters(), as MMEngine's does, not only the parts "
            'that it knows'
        )
        parts = (*link.stages, link.criterion)
        ours = all(type(part).__module__.startswith('kd_mm.') for part in parts)
        if ours and len(lost) == len(learn):
            raise ConfigError(text)
        yield text
