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


def test_every_layer_has_its_kernel():
    adapter = ConvAdapter(
        layers=3, kernel_size=(1, 3, 3), norm_cfg=dict(type='BN'), act_last=True
    )
    pair = FeaturePair(
        link='x',
        student=[torch.randn(2, 4, 6, 5)],
        teacher=[torch.randn(2, 7, 6, 5)],
        samples=[],
        image_size=(48, 40),
    )
    adapter.setup(pair)
    convs = [m for m in adapter.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [conv.kernel_size[0] for conv in convs] == [1, 3, 3]
    norms = [m for m in adapter.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 3
    out = adapter(pair).student[0]
    assert out.shape == (2, 7, 6, 5) and float(out.detach().min()) == 0  # a last ReLU
    with pytest.raises(ConfigError, match='2 entries for 3 layers'):
        ConvAdapter(layers=3, kernel_size=(1, 3))
