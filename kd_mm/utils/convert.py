"""Public CIFAR checkpoints in the names of MMPretrain's classifiers."""

import re
from collections.abc import Mapping

from torch import Tensor

from ..version import __version__
from .cli import load_config
from .export import build_plain, check_paths, check_strict, save_atomically
from .files import read_checkpoint
from .states import state_of

# In this order. The networks are named after those releases, so little differs.
_RULES = (
    (r'^block(\d)\.layer\.', r'layer\1.'),  # WRN
    (r'\.convShortcut\.', '.shortcut.'),  # WRN
    (r'\.shortcut\.(\d)\.', r'.downsample.\1.'),  # ResNet-50
    (r'^(?:fc|linear|classifier|classifier\.0)\.(weight|bias)$', r'head.fc.\1'),
    (r'^(?!head\.)', 'backbone.'),
)


def convert_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a public CIFAR network.

    Knows the releases of CRD ("RepDistiller") and mdistiller - ResNet, WRN, VGG,
    MobileNetV2, ShuffleNet V1 and V2, ResNet-50 - and option-A ResNets for CIFAR-10.

    Args:
        state (Mapping[str, Tensor]): Their state dict.

    Returns:
        dict[str, Tensor]: ``backbone.*`` and ``head.fc.*``.
    """
    out = {}
    for key, value in state.items():
        name = key
        for pattern, replacement in _RULES:
            name = re.sub(pattern, replacement, name)
        out[name] = value
    return out


def convert_checkpoint(
    config: str, path: str, out: str, *, force: bool = False, trust: bool = False
) -> int:
    """Write a public checkpoint so that the model of ``config`` loads it strictly.

    Args:
        config (str): Config of a plain classifier.
        path (str): The public file: a state dict, by itself or under ``model``,
            ``state_dict`` or ``net``.
        out (str): File to write; whole or not there.
        force (bool): Replace an existing ``out``. Defaults to False.
        trust (bool): Whether the public file may run code. Defaults to False.

    Returns:
        int: Number of parameters.

    Raises:
        ConfigError: When a file is missing or in the way, or the tensors are not
            exactly the model's.
    """
    check_paths(path, out, force=force)
    cfg = load_config(config)
    content = read_checkpoint(path, key='checkpoint', trust=trust)
    state = convert_keys(state_of(content, where=f'checkpoint {path}'))
    model = build_plain(cfg)
    check_strict(model, state, path)
    meta = dict(cfg=cfg.pretty_text, kd_mm_version=__version__)
    # the model's own: files from before PyTorch 0.4 lack the step counters of BN
    save_atomically(dict(meta=meta, state_dict=model.state_dict()), out)
    return sum(p.numel() for p in model.parameters())
