"""A network on its own as a model: what a backbone needs to teach."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from .errors import ConfigError

_CONSTANTS = (
    'data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, '
    '57.375], bgr_to_rgb=True)'
)


class Bare(BaseModel):
    """A network that is no model of MMEngine, as the ``backbone`` of one.

    So its taps and the keys of its state dict are named as in MMPretrain's headless
    configs: ``backbone.layers.11``.

    Args:
        network (nn.Module): Takes ``(N, C, H, W)``.
        data_preprocessor (dict, optional): The images that it wants: ``mean``, ``std``,
            ``bgr_to_rgb`` and whatever else its ``type`` takes. Defaults to
            MMEngine's ``ImgDataPreprocessor``.

    Raises:
        ConfigError: If nothing says which images the network wants.
    """

    def __init__(self, network: nn.Module, data_preprocessor: Mapping | None) -> None:
        if data_preprocessor is None:
            raise ConfigError(
                f'the teacher {type(network).__name__} is a network without a '
                'data_preprocessor, so nothing says which images it wants: give '
                f'teacher.{_CONSTANTS}, or {{}} for the pixels as they are in the file'
            )
        said = dict(data_preprocessor)
        super().__init__(dict(dict(type='mmengine.ImgDataPreprocessor'), **said))
        self.backbone = network

    def forward(
        self, inputs: Tensor, data_samples: Sequence[Any] | None = None, mode: str = ''
    ) -> Any:
        """What the network gives for a batch; samples and mode do not matter."""
        return self.backbone(inputs)


def is_bare(kind: Any) -> bool:
    """Whether a config's ``type`` builds a network and no model of MMEngine."""
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    return not (isinstance(kind, type) and issubclass(kind, BaseModel))


def name_of(model: nn.Module) -> str:
    """The class of a model, or of the network in it."""
    return type(model.backbone if isinstance(model, Bare) else model).__name__


def patch_of(model: nn.Module) -> int:
    """Pixels between two cells of a network that cuts its images into patches.

    Raises:
        ConfigError: If the first convolution does not cut patches.
    """
    stem = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if stem is not None and {*stem.kernel_size} == {*stem.stride} != {1}:
        return stem.stride[0]
    raise ConfigError(
        f'teacher.grid: {name_of(model)} does not cut its images into patches '
        f'(its first convolution is {stem}); take teacher.scale'
    )
