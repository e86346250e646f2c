"""MergeTeachers: on tokens as on maps, and no option without effect."""

import pytest
import torch

from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair
from kd_mm.stages import MergeTeachers


def merged(stage: MergeTeachers, *teachers: torch.Tensor) -> torch.Tensor:
    pair = FeaturePair(
        link='x',
        student=[torch.zeros_like(teachers[0])],
        teacher=list(teachers),
        samples=[],
        image_size=(64, 64),
    )
    return stage(pair).teacher[0]


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(by='certain'),
        dict(by='certain', sigmoid=True),
        dict(by='certain', classes=4),
    ],
)
def test_tokens_are_merged_as_a_map_of_the_same_positions(options):
    torch.manual_seed(0)
    maps = torch.randn(3, 2, 8, 5, 6)  # (teachers, N, C, H, W)
    tokens = maps.flatten(3).transpose(2, 3)
    stage = MergeTeachers(**options)
    expected = merged(stage, *maps).flatten(2).transpose(1, 2)
    assert torch.equal(merged(stage, *tokens), expected)


@pytest.mark.parametrize('option', [dict(sigmoid=True), dict(classes=4)])
def test_an_option_without_effect_is_refused(option):
    (name,) = option
    with pytest.raises(ConfigError, match=f"MergeTeachers.{name} .*by='mean'"):
        MergeTeachers(**option)
