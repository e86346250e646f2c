"""Mixed precision without an accelerator."""

from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS


# In MMEngine's own registry, so that the dumped config of a run names it plainly.
@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """``OptimWrapper`` that runs the forward pass under bfloat16 autocast on CPU.

    MMEngine's ``AmpOptimWrapper`` refuses to start there. bfloat16 has the range of
    float32, so nothing is scaled.
    """

    @contextmanager
    def optim_context(self, model):
        """Autocast inside the usual context (gradient accumulation).

        Args:
            model (nn.Module): The model in training.
        """
        with (
            super().optim_context(model),
            torch.autocast('cpu', dtype=torch.bfloat16),
        ):
            yield
