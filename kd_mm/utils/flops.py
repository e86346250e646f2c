"""How much a forward pass computes."""

from typing import Any

from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import sdpa_flop_count


class Flops(TorchDispatchMode):
    """Counts the floating-point operations of what runs inside.

    PyTorch's ``FlopCounterMode`` has the formulas; it also follows modules by hooks
    of its own, which a pass that is left by an exception does not unwind.

    Attributes:
        total (int): Of matrix products, convolutions and attention.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in _FORMULAS:
            self.total += _count(packet, args, kwargs or {}, out)
        elif 'flash_attention_for_cpu' in func.__name__:
            self.total += sdpa_flop_count(*(a.shape for a in args[:3]))
        return out


# Before PyTorch 2.2 it has another name, and its formulas take shapes.
_OF_SHAPES = not hasattr(flop_counter, 'flop_registry')
_FORMULAS = flop_counter.flop_mapping if _OF_SHAPES else flop_counter.flop_registry


def _count(packet: Any, args: Any, kwargs: Any, out: Any) -> int:
    if not _OF_SHAPES:
        return _FORMULAS[packet](*args, **kwargs, out_val=out)
    shapes = tree_map(lambda x: getattr(x, 'shape', x), (args, kwargs, out))
    return _FORMULAS[packet](*shapes[0], **shapes[1], out_shape=shapes[2])
