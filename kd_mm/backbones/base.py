"""What the backbones for small images have in common."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from ..errors import ConfigError

KAIMING = dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu')


class StagedBackbone(BaseModule):
    """A stem, stages, and what comes after the last of them.

    Subclasses create their modules, then call :meth:`stages` with the stages' names,
    and override :meth:`stem` and, where there is something, :meth:`tail`.

    Args:
        init_cfg (dict | list, optional): Initialisation of MMEngine. Defaults to
            Kaiming normal convolutions (fan-out), as in the public releases.
    """

    def __init__(self, *, init_cfg: dict | list | None) -> None:
        super().__init__(init_cfg or [dict(KAIMING)])
        self.names: tuple[str, ...] = ()
        self.out_indices: tuple[int, ...] = ()

    def stages(self, names: Sequence[str], out_indices: Sequence[int] | None) -> None:
        """Say what runs, in order, and which outputs are returned; None: the last.

        Raises:
            ConfigError: If an index is out of range.
        """
        self.names = tuple(names)
        wanted = [len(names) - 1] if out_indices is None else list(out_indices)
        if not wanted or not set(wanted) <= set(range(len(names))):
            raise ConfigError(
                f'{type(self).__name__} has stages 0 to {len(names) - 1}, so '
                f'out_indices={wanted} is out of range'
            )
        self.out_indices = tuple(wanted)

    def stem(self, x: Tensor) -> Tensor:
        """What comes before the first stage."""
        return x

    def tail(self, x: Tensor) -> Tensor:
        """What comes after the last stage, and belongs to its output."""
        return x

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        outs = []
        for index, name in enumerate(self.names):
            x = self.get_submodule(name)(x)
            if index == len(self.names) - 1:
                x = self.tail(x)
            if index in self.out_indices:
                outs.append(x)
        return tuple(outs)


def conv3x3(width_in: int, width_out: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps the size at stride 1."""
    return nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False)


def conv1x1(
    width_in: int, width_out: int, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(width_in, width_out, 1, stride, groups=groups, bias=False)
