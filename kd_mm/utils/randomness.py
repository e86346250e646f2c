"""Random numbers drawn aside: what follows comes as if nothing had been drawn."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def kept_random(device: torch.device | str = 'cpu') -> Iterator[None]:
    """Put the random states of Python, NumPy and PyTorch back at the end.

    Args:
        device (torch.device | str): The accelerator whose state is kept as well.
            Defaults to 'cpu', none.
    """
    put_back = remembered(device)
    try:
        yield
    finally:
        put_back()


def remembered(device: torch.device | str = 'cpu') -> Callable[[], None]:
    """What puts the random states of Python, NumPy and PyTorch back to those of now.

    Args:
        device (torch.device | str): The accelerator whose state is kept as well.
            Defaults to 'cpu', none.
    """
    device = torch.device(device)
    backend = None if device.type == 'cpu' else getattr(torch, device.type, None)
    # not every backend's functions take a device
    where = () if device.index is None else (device,)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_device = backend.get_rng_state(*where) if backend else None

    def put_back() -> None:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if backend:
            backend.set_rng_state(on_device, *where)

    return put_back
