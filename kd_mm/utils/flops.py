"""How much a forward pass computes."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count


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
        if packet in flop_registry:
            self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        elif 'flash_attention_for_cpu' in func.__name__:
            self.total += sdpa_flop_count(*(a.shape for a in args[:3]))
        return out
