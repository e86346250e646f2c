"""How far images are from those that a network was trained on."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.model import ImgDataPreprocessor
from torch import nn

from kd_mm.analysis.doctor import forms
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


class Small(nn.Module):
    """A network whose first batch normalisation has seen images."""

    def __init__(self, channels):
        super().__init__()
        values = dict(mean=[128.0] * channels, std=[64.0] * channels)
        self.data_preprocessor = ImgDataPreprocessor(**values)
        self.conv = nn.Conv2d(channels, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.norm.running_mean += 0.1

    def forward(self, images, mode):
        return self.norm(self.conv(images))

    def loss(self, images, samples):
        return dict(loss=self(images, mode='loss').square().mean())


@pytest.mark.parametrize(('channels', 'coloured'), [(1, False), (3, True)])
def test_only_images_of_three_channels_are_tried_in_other_colours(
    monkeypatch, channels, coloured
):
    model, tried = Small(channels), []
    images = torch.randn(4, channels, 8, 8)
    monkeypatch.setattr(forms, '_as_got', lambda *_: [(images, [])])
    usual = forms._other_forms

    def noted(*arguments):
        tried.append(usual(*arguments))
        return tried[-1]

    monkeypatch.setattr(forms, '_other_forms', noted)
    patient = SimpleNamespace(model=model, teacher_known=False, student_trained=True)
    checks = [finding.check for finding in forms.statistics(patient)]
    assert checks == ['student statistics', 'student images']
    for found in tried:
        assert ("with ImageNet's mean and std" in found) == coloured
        assert all(f(images).shape == images.shape for f in found.values())
