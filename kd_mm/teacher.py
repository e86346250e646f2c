"""The frozen teacher: built, checked, fed with the student's batch, stopped early."""

import functools
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from fractions import Fraction
from os import PathLike
from typing import Any, Literal

import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from .bare import Bare, is_bare, name_of, patch_of
from .errors import ConfigError
from .options import Count, Positive, checked
from .preprocess import InputBridge, crop
from .taps import Recording, Taps
from .toolboxes import check_installed
from .trial import Pass, device_of, initialise, reason, trial
from .utils.loading import load_model_config, load_weights

MOST = 64  # a scale is a fraction of whole numbers, the denominator up to this

_DTYPES = dict(bf16=torch.bfloat16, fp16=torch.float16)


class Teacher:
    """A frozen network in eval mode that nothing else in the model can see.

    It is deliberately not an ``nn.Module``: as an attribute of one it would be found
    by ``state_dict()``, ``parameters()``, ``init_weights`` and every hook that walks
    the model. Copies of the student share it.

    Args:
        config (str | PathLike | dict | nn.Module):
            ``'mmdet::retinanet/retinanet_r101_fpn_2x_coco.py'``, a local file, or an
            inline dict (a whole config or its ``model``). Or the network itself, built:
            it is frozen, and needs no checkpoint. A network that is no model of
            MMEngine (a backbone, any ``nn.Module``) becomes the ``backbone`` of one.
        checkpoint (str | PathLike, optional): Path or URL of the weights. Every key of
            the network must be there with its shape. Defaults to None, for networks
            that are built or fetch their weights themselves (``pretrained=True``).
        data_preprocessor (dict, optional): Which images a network that is no model of
            MMEngine wants. Defaults to None, as its config says.
        grid (int, optional): How many pixels of the student's image one patch of a
            vision transformer shall see: the stride of the student's level. Its image
            is scaled for that. Defaults to None.
        scale (float, optional): How many pixels of its own the teacher sees for one of
            the student's. Defaults to None, 1.
        trust (bool): Whether the checkpoint may hold types other than those of
            checkpoints, and with them run code. Defaults to False.
        allow_random (bool): Whether a teacher without checkpoint is meant (tests,
            benchmarks). Defaults to False.
        allow_same (bool): Whether a teacher with the very weights that the student
            starts from is meant (to hold it there). Defaults to False.
        plain_colours (bool): Whether it sees training images without the colour
            transforms of their pipeline; flips, crops and sizes stay the same. Defaults
            to False.
        dtype (str, optional): 'bf16' or 'fp16' to store and run it in; its features
            arrive as fp32. Defaults to None, the student's (or autocast's).
        channels_last (bool): Whether to run in channels-last memory format.
            Defaults to False.
        compile (bool): Whether to ``torch.compile`` its parts. Defaults to False.
        validate (bool): Whether to evaluate it on the validation set once before
            training starts, see :class:`kd_mm.hooks.DistillHook`. Defaults to False.

    Raises:
        ConfigError: If config or checkpoint are missing, unreadable or do not fit.
    """

    @checked
    def __init__(
        self,
        *,
        config: str | PathLike | dict | nn.Module,
        checkpoint: str | PathLike | None = None,
        data_preprocessor: dict | None = None,
        grid: Count | None = None,
        scale: Positive | None = None,
        trust: bool = False,
        allow_random: bool = False,
        allow_same: bool = False,
        plain_colours: bool = False,
        dtype: Literal['bf16', 'fp16'] | None = None,
        channels_last: bool = False,
        compile: bool = False,
        validate: bool = False,
    ) -> None:
        built = config if isinstance(config, nn.Module) else None
        brings = built is not None or (checkpoint is None and fetches(config))
        if checkpoint is None and not brings and not allow_random:
            raise ConfigError(
                'teacher.checkpoint is missing: a teacher with random weights teaches '
                'nothing (allow_random=True says that it is meant)'
            )
        self.model = _as_model(built, config, data_preprocessor)
        if checkpoint is not None:
            load_weights(
                self.model,
                checkpoint,
                key='teacher.checkpoint',
                trust=trust,
                prefix='backbone.' if isinstance(self.model, Bare) else '',
            )
        elif not brings:
            initialise(self.model)
        if grid and scale:
            raise ConfigError('teacher: grid says what scale is; give one of both')
        self.ratio = Fraction(scale or 1).limit_denominator(MOST)
        self.cell = grid or self.ratio.denominator
        if grid:
            self.ratio = Fraction(patch_of(self.model), grid)
        self.model.requires_grad_(False).eval()
        self.dtype = _DTYPES[dtype] if dtype else None
        self.channels_last = channels_last
        self.compile, self.validate = compile, validate
        self.allow_same, self.plain_colours = allow_same, plain_colours
        self.bridge: InputBridge  # both are known after connect()
        self.taps: Taps
        self._unused: list[nn.Module] = []
        self._owner: Callable[[], nn.Module | None] | None = None

    def belongs_to(self, model: nn.Module) -> bool:
        """Whether ``model`` moves this teacher: the first that asks, while it lives.

        Copies of a student (an average, a deep copy) share its teacher; being moved or
        cast they must not pull it away from the one that trains.
        """
        owner = self._owner() if self._owner is not None else None
        if owner is None:
            owner, self._owner = model, weakref.ref(model)
        return owner is model

    def connect(self, student: nn.Module, taps: Taps) -> None:
        """Say whose batches come and what is read.

        Args:
            student (nn.Module): Whose data preprocessor makes the batches.
            taps (Taps): What is read.
        """
        self.taps = taps
        self.bridge = InputBridge(
            student=student.data_preprocessor,
            teacher=self.model.data_preprocessor,
            ratio=self.ratio,
            cell=self.cell,
        )

    def rehearse(self, inputs: Tensor, samples: Sequence[Any]) -> Pass:
        """One trial pass on a batch of the student, on the device of ``inputs``.

        Args:
            inputs (Tensor): ``(N, C, H, W)``.
            samples (Sequence): Its data samples.
        """
        own = self.bridge(inputs, samples)
        samples = self._own_samples(inputs, own, samples)
        shown = trial(self.model, self.taps, own, samples, mode='predict')
        shown.recording = self._cropped(shown.recording, inputs, own)
        return shown

    def settle(self, reached: set[nn.Module]) -> None:
        """After the trial: leave out what no tap needs, and become fast.

        Args:
            reached (set[nn.Module]): Direct children that the taps need; the others
                stay where they are from now on, off the accelerator.
        """
        if not self.validate:
            # a childless module (an embedding) may be read without being called
            self._unused = [
                m
                for m in self.model.children()
                if m not in reached and any(m.children())
            ]
        if self.dtype:
            self.model.to(self.dtype)
        if self.channels_last:
            self.model.to(memory_format=torch.channels_last)
        if self.compile:
            _compile(self.model, '', {tap.path for tap in self.taps.taps.values()})

    def lend(self, modules: Iterable[nn.Module]) -> None:
        """Keep with the rest what stages run themselves, tapped or not.

        Args:
            modules (Iterable[nn.Module]): The teacher's own.
        """
        lent = set(modules)
        self._unused = [m for m in self._unused if lent.isdisjoint(m.modules())]

    def whole(self) -> nn.Module:
        """The network, to be run to its end: all of it where its tapped parts are."""
        used = [m for m in self.model.children() if m not in self._unused]
        device = device_of(nn.ModuleList(used))
        for module in self._unused:
            module.to(device)
        self._unused = []
        return self.model

    def _own_samples(self, inputs: Tensor, own: Tensor, samples: Sequence[Any]):
        if own.shape[2:] == inputs.shape[2:]:
            return samples
        return self.bridge.resized_samples(samples, tuple(own.shape[2:]))

    def _cropped(self, seen: Recording, inputs: Tensor, own: Tensor) -> Recording:
        """Maps over the student's batch, where the bridge has padded or scaled it."""
        if own.shape[2:] == inputs.shape[2:]:
            return seen
        seen.image_size = padded = tuple(own.shape[2:])
        seen.shown_size = size = self.bridge.shown(tuple(inputs.shape[2:]))
        return seen.map(functools.partial(crop, padded=padded, size=size))

    def apply_to_tensors(self, fn: Callable) -> None:
        """Follow ``.to()``, ``.cuda()``, ``.half()`` of the student."""
        self.model._apply(fn, recurse=False)  # parameters of the detector itself
        for module in self.model.children():
            if module not in self._unused:
                module._apply(fn)
        self.bridge._apply(fn)
        if self.dtype:  # the student's .float() or .half() does not undo the option
            self.model.to(self.dtype)

    def __deepcopy__(self, memo: dict) -> 'Teacher':
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | dict(_owner=None)

    @torch.no_grad()
    def __call__(
        self, inputs: Tensor, samples: Sequence[Any], specs: Sequence[str]
    ) -> Recording:
        """Run on the student's batch as far as the last of ``specs``.

        Args:
            inputs (Tensor): The student's preprocessed batch, ``(N, C, H, W)``.
            samples (Sequence): Its data samples.
            specs (Sequence[str]): The taps wanted now.
        """
        device = inputs.device
        if device != self.bridge.scale.device:  # a copy trains elsewhere
            self.apply_to_tensors(lambda tensor: tensor.to(device))
        own = self.bridge(inputs, samples)
        samples = self._own_samples(inputs, own, samples)
        if self.channels_last:
            own = own.contiguous(memory_format=torch.channels_last)
        context = nullcontext()
        if self.dtype:
            own = own.to(self.dtype)
            # networks make some of their numbers in fp32: masks, sines of positions
            context = torch.autocast(own.device.type, dtype=self.dtype)
        with context, self.taps.record(self.model, specs=specs, stop=True) as seen:
            self.model(own, samples, mode='predict')
        for tap, calls in seen.calls.items():
            if len(calls) != self.taps.expected[tap]:
                raise ConfigError(
                    f'teacher tap {str(tap)!r} fired {len(calls)} times on this batch '
                    f'and {self.taps.expected[tap]} times on the trial batch'
                )
        if self.dtype:
            seen = seen.map(Tensor.float)
        return self._cropped(seen, inputs, own)

    def check_dtype(self, inputs: Tensor, samples: Sequence[Any]) -> None:
        """Refuse a number format that it does not run in, now that it has it."""
        if self.dtype is None or self.compile:  # compiling takes long, for one size
            return
        try:
            self(inputs, samples, list(self.taps.taps))
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f'teacher.dtype: {type(self.model).__name__} does not run in '
                f'{self.dtype} on {inputs.device.type} ({reason(error)}); leave it out'
            ) from error

    def check_differs(self, student: nn.Module) -> None:
        """Raise ``ConfigError`` when student and teacher have the same weights."""
        own = dict(student.named_parameters())
        theirs = dict(self.model.named_parameters())
        if self.allow_same or not own.keys() >= theirs.keys():
            return
        if all(  # ends at the first tensor that differs
            own[name].shape == value.shape and own[name].detach().to(value).equal(value)
            for name, value in theirs.items()
        ):
            raise ConfigError(
                'student and teacher have the same weights: the teacher is what the '
                'student starts from and can teach it nothing '
                '(teacher.allow_same=True says that it is meant)'
            )

    def describe(self) -> str:
        """Name and size, for the log."""
        millions = sum(p.numel() for p in self.model.parameters()) / 1e6
        return f'{name_of(self.model)}, {millions:.2f} M parameters'


def _as_model(built: nn.Module | None, config: Any, said: dict | None) -> nn.Module:
    """A model with a data preprocessor: built already, from its config, or around it.

    Args:
        built (nn.Module | None): The network itself.
        config (Any): Where it comes from otherwise.
        said (dict | None): ``teacher.data_preprocessor``.
    """
    if built is not None:
        if not isinstance(getattr(built, 'data_preprocessor', None), nn.Module):
            return Bare(built, said)
    else:
        cfg, scope = load_model_config(config)
        with DefaultScope.overwrite_default_scope(scope):
            check_installed(cfg, 'teacher.config.model')
            if is_bare(cfg.type):
                found = cfg.pop('data_preprocessor', None)
                return Bare(MODELS.build(cfg), said if said is not None else found)
            built = MODELS.build(cfg)
    if said is not None:
        raise ConfigError(
            f'teacher.data_preprocessor: {type(built).__name__} has one of its own; '
            'change that in teacher.config'
        )
    return built


def fetches(config: str | PathLike | dict) -> bool:
    """Whether a config's network fetches its weights while it is built (timm)."""
    return _has_pretrained(load_model_config(config)[0])


def _has_pretrained(config: Any) -> bool:
    if not isinstance(config, dict):
        return False
    own = config.get('pretrained') is True
    return own or any(_has_pretrained(value) for value in config.values())


class _Compiled:
    """A compiled ``forward``; a pickle holds the plain one and compiles it again."""

    def __init__(self, forward: Callable) -> None:
        self.forward, self.run = forward, torch.compile(forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)

    def __reduce__(self) -> tuple:
        return _Compiled, (self.forward,)


def _compile(module: nn.Module, name: str, taps: set[str]) -> None:
    """Compile the largest submodules that hide no tap.

    Taps are hooks, which work on what is called from outside a compiled region, so a
    module with a tap inside is compiled part by part.
    """
    hides_tap = any(path.startswith(f'{name}.') if name else True for path in taps)
    plain_container = isinstance(module, (nn.ModuleList, nn.ModuleDict))
    if not hides_tap and not plain_container:
        module.forward = _Compiled(module.forward)
        return
    for child_name, child in module.named_children():
        if child_name != 'data_preprocessor':
            _compile(child, f'{name}.{child_name}' if name else child_name, taps)
