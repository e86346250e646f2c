"""Weights that an ``init_cfg`` names: MMEngine takes any file, and what fits of it."""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from mmengine.logging import MMLogger
from torch import nn

from .kinds import is_type
from .states import compare, some

PARTLY = 0.9  # of a part's tensors in its files; less is worth a line, if ...
NOTHING = 0.1  # ... that is no design (attention, offsets), or there is hardly any


def init_parts(said: Any) -> tuple[list[dict], list[dict]]:
    """What of an ``init_cfg`` reads a file, and what does not."""
    found: tuple[list[dict], list[dict]] = [], []
    for part in said if isinstance(said, list | tuple) else [said] if said else []:
        # its name in the registry, and that of the class
        found[not is_type(part, 'Pretrained', 'PretrainedInit')].append(part)
    return found


def init_files(module: nn.Module) -> list[str]:
    """The files that a module is initialised from, by its ``init_cfg``."""
    files, _ = init_parts(getattr(module, 'init_cfg', None))
    return [str(part.get('checkpoint')) for part in files]


@contextmanager
def watched_pretraining(model: nn.Module) -> Iterator[None]:
    """Warn of parts that the file of their ``init_cfg`` fills in part or not at all.

    Backbones of one name differ between the toolboxes: an MMPretrain checkpoint fills
    nothing of MMDetection's MobileNetV2. Modules that a file does not know by design
    (attention added to a backbone) are no reason to speak.
    """
    with ExitStack() as hooks:
        loads = [
            _Loads(name, module, hooks)
            for name, module in model.named_modules()
            if init_files(module)
        ]
        yield
    for each in loads:
        each.judge()


class _Loads:
    """What the loads into one module have left as it was."""

    def __init__(self, name: str, module: nn.Module, hooks: ExitStack) -> None:
        self.name, self.module = name, module
        self.missing: set[str] | None = None
        self.unused: set[str] = set()
        self._state: dict[str, Any] | None = None
        # PyTorch's public name for it is younger than what we run on
        before = module._register_load_state_dict_pre_hook(self._before)
        after = module.register_load_state_dict_post_hook(self._after)
        for handle in (before, after):
            hooks.callback(handle.remove)

    def _before(self, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
        # a load into what this module is a part of is not its own
        self._state = None if prefix else dict(state)

    def _after(self, module: nn.Module, incompatible: Any) -> None:
        if self._state is None:
            return
        own = _without_counters(module.state_dict())
        _, _, shapes = compare(own, self._state)
        missing = {*incompatible.missing_keys} & own.keys() | shapes.keys()
        self.missing = missing if self.missing is None else self.missing & missing
        known = {*module.state_dict()} - shapes.keys()
        self.unused |= {*_without_counters(self._state)} - known
        self._state = None

    def judge(self) -> None:
        """Say what is missing, where that is no design."""
        if self.missing is None:
            return
        own = _without_counters(self.module.state_dict())
        found = len(own) - len(self.missing)
        # as many tensors of other names, or more blocks of a kind that the file knows
        known = {_kind(name) for name in own.keys() - self.missing}
        odd = sum(_kind(name) in known for name in self.missing)
        other = len(self.unused) >= len(self.missing)
        mistaken = other or odd > (1 - PARTLY) * len(own)
        if found >= (PARTLY if mistaken else NOTHING) * len(own):
            return
        key = '.'.join(filter(None, ('student', self.name, 'init_cfg')))
        more = some(sorted(self.unused)) or 'nothing else'
        MMLogger.get_current_instance().warning(
            f'{key}: of {len(own)} tensors {found} are in '
            f'{", ".join(init_files(self.module))}, the others start from nothing '
            f'({some(sorted(self.missing))}; the file has {more}): give a file of this '
            'backbone, in this toolbox, and the prefix of its names'
        )


def _kind(name: str) -> str:
    """A tensor's name whatever its number: the same for all blocks of a stage."""
    return re.sub(r'\d+', '#', name)


def _without_counters(state: Mapping[str, Any]) -> dict[str, Any]:
    """Old files do not have them, and nothing depends on them."""
    return {k: v for k, v in state.items() if not k.endswith('num_batches_tracked')}
