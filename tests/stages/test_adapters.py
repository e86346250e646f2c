"""ConvAdapter and Resize."""

import pytest
import torch
import torch.nn.functional as F

from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair
from kd_mm.stages import ConvAdapter, Resize


def pair(student, teacher) -> FeaturePair:
    return FeaturePair(
        link='x', student=student, teacher=teacher, samples=[], image_size=(64, 64)
    )


def test_adapter_brings_every_level_to_the_teachers_width():
    student = [torch.randn(2, 4, s, s) for s in (8, 4)]
    teacher = [torch.randn(2, c, s, s) for c, s in ((6, 8), (10, 4))]
    stage = ConvAdapter(layers=3, kernel_size=3, norm_cfg=dict(type='BN'))
    stage.setup(pair(student, teacher))
    out = stage(pair(student, teacher))
    assert [x.shape for x in out.student] == [x.shape for x in teacher]
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in stage.modules()) == 4


def test_adapter_of_one_layer_is_a_linear_map():
    student = torch.randn(3, 4)
    stage = ConvAdapter()
    stage.setup(pair([student], [torch.randn(3, 5)]))
    conv = stage.adapters[0][0].conv
    expected = F.linear(student, conv.weight[:, :, 0, 0], conv.bias)
    got = stage(pair([student], [torch.randn(3, 5)])).student[0]
    torch.testing.assert_close(got, expected)


def test_a_shared_adapter_is_one_for_all_levels():
    student = [torch.randn(2, 4, s, s) for s in (8, 4)]
    teacher = [torch.randn(2, 6, s, s) for s in (8, 4)]
    stage = ConvAdapter(share=True)
    stage.setup(pair(student, teacher))
    assert len(stage.adapters) == 1
    assert [x.shape[1] for x in stage(pair(student, teacher)).student] == [6, 6]
    with pytest.raises(ConfigError, match='widths differ'):
        ConvAdapter(share=True).setup(pair(student, [teacher[0], student[1]]))


@pytest.mark.parametrize('mode', ['bilinear', 'nearest', 'area'])
@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_resize_changes_one_side_only(side, mode):
    student, teacher = torch.randn(2, 4, 8, 10), torch.randn(2, 4, 5, 5)
    out = Resize(side=side, mode=mode)(pair([student], [teacher]))
    kept = out.teacher if side == 'student' else out.student
    assert kept[0] is (teacher if side == 'student' else student)
    assert out.student[0].shape == out.teacher[0].shape


def test_resize_leaves_equal_sizes_alone():
    student, teacher = torch.randn(2, 2, 4, 8, 8)
    assert Resize()(pair([student], [teacher])).student[0] is student


@pytest.mark.parametrize(
    'make',
    [
        lambda: ConvAdapter(layers=0),
        lambda: ConvAdapter(kernel_size=2),
        lambda: Resize(side='both'),
        lambda: Resize(mode='cubic'),
    ],
)
def test_senseless_options_are_refused(make):
    with pytest.raises(ConfigError):
        make()
