"""Models inside of what MMEngine wraps around them."""

from mmengine.model import is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, whatever DDP, FSDP or another strategy put around it."""
    while is_model_wrapper(model):
        model = model.module
    return model
