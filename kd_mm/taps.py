"""Taps: read module outputs (or inputs) by dotted path, for one forward pass."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from .errors import ConfigError, nearest, within
from .probe import copy_of

_SPEC = re.compile(
    r'^(?:(?P<network>[A-Za-z_]\w*):)?(?P<path>[A-Za-z_]\w*(?:\.\w+)*)(?P<index>(?:\[\d+\])*)(?:@(?P<side>input|output))?$'
)


def _holds_tensors(value: Any) -> bool:
    """Whether a nested tuple is made of tensors; None counts as nothing."""
    if isinstance(value, (tuple, list)):
        return all(_holds_tensors(item) for item in value)
    return value is None or isinstance(value, Tensor)


class AllTapped(Exception):
    """Raised inside a forward pass once every tap has what it waits for."""


@dataclass(frozen=True)
class Tap:
    """One tap, written ``path``, ``path[0]``, ``path[0][1]`` or ``path@input``.

    A tap gives a flat list of tensors: nested tuples are opened, and a module that
    is called several times (a head shared over FPN levels) gives its calls in order.

    Attributes:
        path (str): Dotted path of the module, as in ``named_modules()``.
        index (tuple[int, ...]): Indices into the (nested) output of every call.
        side (str): 'output' or 'input'.
        network (str): Which of several teachers it is on, written in front:
            ``name:path``. Defaults to ''.
    """

    path: str
    index: tuple[int, ...] = ()
    side: str = 'output'
    network: str = ''

    @classmethod
    def parse(cls, spec: str) -> 'Tap':
        """Read a tap from its text.

        Raises:
            ConfigError: If ``spec`` is not of the form above.
        """
        match = _SPEC.match(spec) if isinstance(spec, str) else None
        if match is None:
            raise ConfigError(
                f'{spec!r} is not a tap: write a module path such as "neck", '
                '"bbox_head[0]" or "roi_head.bbox_head.fc_cls@input"'
            )
        index = tuple(int(i) for i in re.findall(r'\d+', match['index']))
        side, network = match['side'] or 'output', match['network'] or ''
        return cls(match['path'], index, side, network)

    def pick(self, value: Any) -> list[Tensor]:
        """The tensors this tap takes from the output (or input) of one call."""
        for i in self.index:
            if not isinstance(value, (tuple, list)) or i >= len(value):
                size = len(value) if isinstance(value, (tuple, list)) else 'no'
                raise ConfigError(f'index {i}, but there are {size} items')
            value = value[i]
        return list(self._flatten(value))

    def _flatten(self, value: Any) -> Iterator[Tensor]:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            self._check_items(value)
            for item in value:
                yield from self._flatten(item)
        elif value is not None:
            raise ConfigError(
                f'it gives a {type(value).__name__}; tap a module whose '
                f'{self.side} is a tensor or a tuple of tensors'
            )

    def _check_items(self, items: Sequence[Any]) -> None:
        """Tensors next to something else: Swin's stages give tokens and their grid."""
        tensors = [i for i, item in enumerate(items) if isinstance(item, Tensor)]
        for item in items:
            if tensors and not isinstance(item, Tensor) and not _holds_tensors(item):
                first = replace(self, index=(*self.index, tensors[0]))
                raise ConfigError(
                    f'{self} gives a tensor {tuple(items[tensors[0]].shape)} and a '
                    f'{type(item).__name__}: write {str(first)!r} for the tensor alone'
                )

    def __str__(self) -> str:
        index = ''.join(f'[{i}]' for i in self.index)
        network = f'{self.network}:' if self.network else ''
        return f'{network}{self.path}{index}' + (
            '@input' if self.side == 'input' else ''
        )


@dataclass
class Recording:
    """What the taps saw in one forward pass: one list of tensors per call.

    Attributes:
        image_size (tuple[int, int], optional): Height and width of the batch the
            network saw, None where it is the student's own.
        shown_size (tuple[int, int], optional): How much of that shows the student's
            batch; the rest is padding. None where it is the student's own.
        parts (dict[str, Recording]): Of several networks by name, where it is of
            several.
    """

    calls: dict[Tap, list[list[Tensor]]]
    versions: dict[Tap, list[list[int]]] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    shown_size: tuple[int, int] | None = None
    parts: dict[str, 'Recording'] = field(default_factory=dict)

    @classmethod
    def together(cls, parts: dict[str, 'Recording']) -> 'Recording':
        """One recording out of those of several networks."""
        merged = cls({}, parts=parts)
        for part in parts.values():
            merged.calls.update(part.calls)
            merged.versions.update(part.versions)
        return merged

    def of(self, network: str) -> 'Recording':
        """That of one network, with the sizes that it saw."""
        return self.parts.get(network, self)

    def map(self, change: Callable[[Tensor], Tensor]) -> 'Recording':
        """The same with every tensor changed; one that comes twice is so afterwards."""
        seen = {id(t): t for calls in self.calls.values() for c in calls for t in c}
        made = {key: change(tensor) for key, tensor in seen.items()}
        return Recording(
            {
                tap: [[made[id(tensor)] for tensor in call] for call in calls]
                for tap, calls in self.calls.items()
            },
            self.versions,
            self.image_size,
            self.shown_size,
            {name: part.map(change) for name, part in self.parts.items()},
        )

    def features(self, tap: Tap) -> list[Tensor]:
        """All tensors of a tap, calls in order."""
        return [tensor for call in self.calls[tap] for tensor in call]

    def overwritten(self, tap: Tap) -> bool:
        """Whether a later in-place operation changed what the tap had captured."""
        return any(
            tensor._version != version
            for call, seen in zip(self.calls[tap], self.versions[tap], strict=True)
            for tensor, version in zip(call, seen, strict=True)
        )


class Taps:
    """The taps of one network.

    Hooks exist only inside :meth:`record`; between forward passes, and in validation,
    the network is untouched.

    Args:
        specs (Iterable[str]): Taps as text, see :class:`Tap`.
        model (nn.Module): The network, to check the paths against; not kept.
        owner (str): 'student' or 'teacher', for messages.
        links (Mapping[str, str], optional): Which link names which of ``specs``, for
            messages.

    Raises:
        ConfigError: If a path does not exist; names the nearest ones that do.

    Examples:
        >>> import torch
        >>> import kd_mm
        >>> net = torch.nn.Sequential()
        >>> net.add_module('stem', torch.nn.Conv2d(3, 8, 3))
        >>> net.add_module('act', torch.nn.ReLU())
        >>> taps = kd_mm.Taps(specs=['stem', 'act@input'], model=net, owner='student')
        >>> with taps.record(net) as seen:
        ...     out = net(torch.zeros(1, 3, 8, 8))
        >>> [tuple(seen.features(tap)[0].shape) for tap in taps.taps.values()]
        [(1, 8, 6, 6), (1, 8, 6, 6)]
    """

    def __init__(
        self,
        *,
        specs: Iterable[str],
        model: nn.Module,
        owner: str,
        links: Mapping[str, str] | None = None,
    ) -> None:
        self.owner = owner
        self.taps: dict[str, Tap] = {}
        self.names: dict[Tap, str] = {}  # in messages
        names = dict(model.named_modules())
        for spec in dict.fromkeys(specs):
            link = f'links.{links[spec]}: ' if links else ''
            with within(f'{link}{owner} tap '):
                tap = Tap.parse(spec)
            self.taps[spec] = tap
            self.names[tap] = f'{link}{owner} tap {str(tap)!r}'
            if tap.path not in names:
                raise ConfigError(
                    f'{self.names[tap]}: {type(model).__name__} has no module '
                    f'{tap.path!r}; {nearest(tap.path, filter(None, names))}'
                )
        # Learned by the first, complete pass: how often each tap fires, and which
        # captured tensors a later in-place operation overwrites.
        self.expected: dict[Tap, int] = {}
        self.clone: set[Tap] = set()

    @classmethod
    def together(cls, parts: Sequence['Taps']) -> 'Taps':
        """The taps of several networks, to look them up."""
        if len(parts) == 1:
            return parts[0]
        merged = cls(specs=(), model=nn.Module(), owner=parts[0].owner)
        for part in parts:
            merged.taps.update(part.taps)
            merged.names.update(part.names)
        return merged

    def learn(self, recording: Recording, *, when: str = 'a forward pass') -> None:
        """Take call counts and in-place overwriting from a forward pass.

        Args:
            recording (Recording): Of a pass of which nothing more is to come.
            when (str): What the pass was, for the message.

        Raises:
            ConfigError: If a tap was never called.
        """
        for tap, calls in recording.calls.items():
            if not calls:
                raise ConfigError(
                    f'{self.names[tap]} exists but is never called in '
                    f'{when}; tap a module that runs'
                )
            self.expected[tap] = len(calls)
            if recording.overwritten(tap):
                self.clone.add(tap)

    @contextmanager
    def record(
        self,
        model: nn.Module,
        *,
        specs: Iterable[str] | None = None,
        stop: bool = False,
    ) -> Iterator[Recording]:
        """Record one forward pass of ``model``.

        Args:
            model (nn.Module): The network (or its copy) that the taps belong to.
            specs (Iterable[str], optional): The taps wanted. Defaults to all.
            stop (bool): Whether to leave the pass by :class:`AllTapped` as soon as
                every wanted tap has fired as often as it does in a complete pass.
                The context swallows the exception. Defaults to False.
        """
        # two spellings may mean one tap
        found = (self.taps[s] for s in (self.taps if specs is None else specs))
        wanted = list(dict.fromkeys(found))
        recording = Recording({t: [] for t in wanted}, {t: [] for t in wanted})
        waiting = {t: self.expected[t] for t in wanted} if stop else {}
        copies: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

        def kept(tensor: Tensor) -> Tensor:
            """One copy of a tensor, as it is now, for all taps."""
            key = id(tensor), tensor._version
            if key not in copies:
                copies[key] = tensor, copy_of(tensor)
            return copies[key][1]

        def see(tap: Tap, value: Any) -> None:
            with within(f'{self.names[tap]}: '):
                tensors = tap.pick(value)
            if tap in self.clone:
                tensors = [kept(tensor) for tensor in tensors]
            recording.calls[tap].append(tensors)
            recording.versions[tap].append([t._version for t in tensors])
            if stop and len(recording.calls[tap]) == waiting.get(tap):
                del waiting[tap]
                if not waiting:
                    raise AllTapped

        handles = [self._hook(model.get_submodule(t.path), t, see) for t in wanted]
        try:
            yield recording
        except AllTapped:
            pass
        finally:
            for handle in handles:
                handle.remove()

    @staticmethod
    def _hook(module: nn.Module, tap: Tap, see):
        if tap.side == 'input':
            return module.register_forward_pre_hook(
                lambda _, args, kwargs: see(tap, [*args, *kwargs.values()]),
                with_kwargs=True,
            )
        return module.register_forward_hook(lambda _, __, output: see(tap, output))
