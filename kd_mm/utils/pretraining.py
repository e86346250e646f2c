"""Weights that an ``init_cfg`` names: MMEngine takes any file, and what fits of it."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from mmengine.logging import MMLogger
from torch import nn

from .kinds import is_type
from .states import compare, some

PARTLY = 0.9  # a file with less than that of a part's tensors is worth a line


def init_file(module: nn.Module) -> str | None:
    """The file that a module is initialised from, by its ``init_cfg``."""
    said = getattr(module, 'init_cfg', None) or []
    for part in said if isinstance(said, list | tuple) else [said]:
        if is_type(part, 'Pretrained', 'PretrainedInit'):
            return str(part.get('checkpoint'))
    return None


@contextmanager
def watched_pretraining(model: nn.Module) -> Iterator[None]:
    """Warn of parts that the file of their ``init_cfg`` fills in part or not at all.

    Backbones of one name differ between the toolboxes: an MMPretrain checkpoint fills
    nothing of MMDetection's MobileNetV2.
    """
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if path := init_file(module):
                note = partial(_compare, name=name, path=path)
                handle = module.register_load_state_dict_pre_hook(note)
                hooks.callback(handle.remove)
        yield


def _compare(
    module: nn.Module, state: Mapping[str, Any], *_: Any, name: str, path: str
) -> None:
    own = _without_counters(module.state_dict())
    missing, foreign, shapes = compare(own, _without_counters(state))
    found = len(own) - len(missing) - len(shapes)
    if found >= PARTLY * len(own):
        return
    names = [*missing, *shapes.values()]
    MMLogger.get_current_instance().warning(
        f'student.{name}.init_cfg: of {len(own)} tensors {found} are in {path}, the '
        f'others start from nothing ({some(names)}; the file has {some(foreign)}): '
        'give a file of this backbone, in this toolbox, and the prefix of its names'
    )


def _without_counters(state: Mapping[str, Any]) -> dict[str, Any]:
    """Old files do not have them, and nothing depends on them."""
    return {k: v for k, v in state.items() if not k.endswith('num_batches_tracked')}
