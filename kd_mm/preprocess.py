"""Turn the student's batch into what the teacher's own preprocessor would have made."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _normalisation(preprocessor: nn.Module) -> tuple[Tensor, Tensor]:
    """Mean and std as ``(3, 1, 1)``, in the channel order after any conversion."""
    if getattr(preprocessor, '_enable_normalize', False):
        mean, std = preprocessor.mean, preprocessor.std
        return mean.detach().float().expand(3, 1, 1), std.detach().float().expand(
            3, 1, 1
        )
    return torch.zeros(3, 1, 1), torch.ones(3, 1, 1)


def _swaps_channels(preprocessor: nn.Module) -> bool:
    """Whether red and blue change places on the way in (MMDetection, MMPretrain)."""
    return bool(
        getattr(preprocessor, '_channel_conversion', False)
        or getattr(preprocessor, 'to_rgb', False)
    )


class InputBridge(nn.Module):
    """Un-normalise with the student's constants, re-normalise with the teacher's.

    Covers mean and std, the order of the colour channels, the value of the padding
    and its divisor. What both share is left alone; two equal preprocessors cost
    nothing. Batch augmentation (mixup, multi-scale) has happened before, so teacher
    and student see the same mixed images.

    Args:
        student (nn.Module): The student's data preprocessor.
        teacher (nn.Module): The teacher's.
    """

    def __init__(self, *, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.flip = _swaps_channels(student) != _swaps_channels(teacher)
        mean_s, std_s = _normalisation(student)
        mean_t, std_t = _normalisation(teacher)
        if self.flip:
            mean_s, std_s = mean_s.flip(0), std_s.flip(0)
        scale, shift = std_s / std_t, (mean_s - mean_t) / std_t
        self.register_buffer('scale', scale[None], persistent=False)
        self.register_buffer('shift', shift[None], persistent=False)
        self.changes_values = not (
            torch.allclose(scale, torch.ones(()))
            and torch.allclose(shift, torch.zeros(()))
        )
        pad_s = float(getattr(student, 'pad_value', 0) or 0)
        self.pad = float(getattr(teacher, 'pad_value', 0) or 0)
        self.pad_differs = not torch.allclose(
            pad_s * scale + shift, torch.tensor(self.pad), atol=1e-4
        )
        self.divisor = int(getattr(teacher, 'pad_size_divisor', 1) or 1)

    def forward(self, inputs: Tensor, samples: Sequence[Any] | None) -> Tensor:
        """``(N, 3, H, W)`` of the student -> ``(N, 3, H', W')`` of the teacher."""
        if self.flip:
            inputs = inputs.flip(1)
        if self.changes_values:
            inputs = torch.addcmul(
                self.shift.to(inputs.dtype), inputs, self.scale.to(inputs.dtype)
            )
        if self.pad_differs and samples is not None:
            inputs = self._repad(inputs, samples)
        height, width = inputs.shape[2:]
        bottom, right = -height % self.divisor, -width % self.divisor
        if bottom or right:
            inputs = F.pad(inputs, (0, right, 0, bottom), value=self.pad)
        return inputs

    def _repad(self, inputs: Tensor, samples: Sequence[Any]) -> Tensor:
        height, width = inputs.shape[2:]
        sizes = [
            tuple(s.metainfo.get('img_shape', (height, width)))[:2] for s in samples
        ]
        if all(size == (height, width) for size in sizes):
            return inputs
        sizes = torch.tensor(sizes).to(inputs.device, non_blocking=True)[
            :, :, None, None
        ]
        rows = torch.arange(height, device=inputs.device)[:, None] >= sizes[:, 0, :]
        columns = torch.arange(width, device=inputs.device) >= sizes[:, 1, :]
        outside = rows.reshape(-1, 1, height, 1) | columns.reshape(-1, 1, 1, width)
        return inputs.masked_fill(outside, self.pad)
