"""How far images are from those that a network was trained on."""

import pytest
import torch
from torch import nn

from kd_mm.analysis.doctor.forms import _distance


class OneNorm(nn.Module):
    """A batch normalisation that was trained on means of 0 and variances of 1."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3, eps=0.0)

    def forward(self, images, mode):
        return self.norm(images)


@pytest.mark.parametrize(
    ('scale', 'shift', 'says'),
    [
        (4.0, 0.0, 'means 0.00 standard deviations from those of its training, and '
         'variances a factor of 16 from them'),
        (1.0, 2.0, 'means 2.00 standard deviations from those of its training, and '
         'variances a factor of 1 from them'),
    ],
)  # fmt: skip
def test_means_and_variances_are_told_apart(scale, shift, says):
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images = images - images.mean((0, 2, 3), keepdim=True)
    images = images / images.std((0, 2, 3), keepdim=True)
    model = OneNorm()
    assert _distance(model, model.norm, [scale * images + shift]).told == says
