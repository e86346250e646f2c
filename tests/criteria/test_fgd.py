"""FGD against a direct computation."""

import math

import pytest
import torch
import toys
from helpers import blotchy_batches, build, distill_cfg, train_steps
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from kd_mm.criteria.fgd import FGDLoss, attention, focal_masks
from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair


def samples():
    out = []
    for boxes in ([[4.0, 4, 30, 20], [8, 8, 15, 15], [40, 8, 64, 48]], []):
        one = DetDataSample()
        one.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes).view(-1, 4),
            labels=torch.zeros(len(boxes), dtype=torch.long),
        )
        out.append(one)
    return out


def make_pair(shape=(2, 5, 6, 8)):
    return FeaturePair(
        link='x',
        student=[torch.randn(shape, requires_grad=True)],
        teacher=[torch.randn(shape)],
        samples=samples(),
        image_size=(48, 64),
    )


def naive_masks():
    foreground, background = torch.zeros(2, 6, 8), torch.zeros(2, 6, 8)
    for n, one in enumerate(samples()):
        for box in (one.gt_instances.bboxes / 8).tolist():
            left, top = math.floor(box[0]), math.floor(box[1])
            right, bottom = math.ceil(box[2]), math.ceil(box[3])
            for i in range(top, bottom):
                for j in range(left, right):
                    value = 1 / ((right - left) * (bottom - top))
                    foreground[n, i, j] = max(foreground[n, i, j], value)
        free = foreground[n] == 0
        background[n][free] = 1 / free.sum()
    return foreground, background


def naive_attention(feature):
    c, height, width = feature.shape
    spatial = torch.zeros(height, width, dtype=feature.dtype)
    for i in range(height):
        for j in range(width):
            spatial[i, j] = math.exp(float(feature[:, i, j].abs().mean()) / 0.5)
    channel = torch.tensor(
        [math.exp(float(f.abs().mean()) / 0.5) for f in feature], dtype=feature.dtype
    )
    return (
        spatial / spatial.sum() * height * width,
        channel / channel.sum() * c,
    )


def test_masks_equal_those_of_a_loop():
    got = focal_masks(samples(), (48, 64), (6, 8), torch.device('cpu'))
    for one, expected in zip(got, naive_masks(), strict=True):
        torch.testing.assert_close(one[:, 0], expected)
    # every object weighs one, where no smaller one lies on it
    assert float(got[0][0].sum()) > 2 and float(got[0][1].sum()) == 0
    assert float(got[1][1].sum()) == pytest.approx(1)


def test_attention_equals_that_of_a_loop():
    feature = torch.randn(2, 5, 6, 8)
    spatial, channel = attention(feature, 0.5)
    for n in range(2):
        one, other = naive_attention(feature[n].double())
        for got, expected in ((spatial[n, 0], one), (channel[n, :, 0, 0], other)):
            torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('weighted', [False, True])
def test_the_loss_equals_a_direct_sum(weighted):
    pair = make_pair()
    parts = dict(foreground=0.7, background=0.3, attention=0.2, relation=0.0)
    criterion = FGDLoss(weight=2.0, **parts)
    criterion.setup(pair)
    weight = torch.rand(2, 1, 6, 8) if weighted else torch.ones(2, 1, 6, 8)
    pair.weight = [weight if weighted else None]
    masks = naive_masks()
    total = 0.0
    for n in range(2):
        s, t = pair.student[0][n].detach().double(), pair.teacher[0][n].double()
        spatial_s, channel_s = naive_attention(s)
        spatial, channel = naive_attention(t)
        for part, mask in zip((0.7, 0.3), masks, strict=True):
            for c in range(5):
                error = (s[c] - t[c]) ** 2 * channel[c] * spatial
                total += part * float((error * mask[n] * weight[n, 0]).sum()) / 5 / 2
        total += 0.2 * float((spatial_s - spatial).abs().mean()) / 2
        total += 0.2 * float((channel_s - channel).abs().mean()) / 2
    assert float(criterion(pair).detach()) == pytest.approx(2 * total, rel=1e-4)


def test_relations_are_compared_after_a_context_block_of_each_side():
    pair = make_pair()
    only = dict(foreground=0.0, background=0.0, attention=0.0, relation=1.0)
    criterion = FGDLoss(**only)
    criterion.setup(pair)
    # the blocks start as identity
    plain = (pair.student[0] - pair.teacher[0]).square().mean()
    torch.testing.assert_close(criterion(pair), plain)
    for block in criterion.contexts['teacher']:
        torch.nn.init.normal_(block.channel_add_conv[-1].weight)
    criterion(pair).backward()
    assert not torch.allclose(criterion(pair), plain)
    used = [p for p in criterion.parameters() if p.grad is not None]
    assert len(used) == len(list(criterion.parameters()))


def test_the_size_of_image_and_object_does_not_matter():
    """A picture at twice the size has the same loss."""
    pair = make_pair()
    for one in pair.samples:  # of whole cells, so that both cover the same
        one.gt_instances.bboxes = (one.gt_instances.bboxes / 8).round() * 8
    criterion = FGDLoss()
    criterion.setup(pair)
    small = criterion(pair)
    pair.student, pair.teacher = (
        [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in side]
        for side in (pair.student, pair.teacher)
    )
    torch.testing.assert_close(criterion(pair), small, rtol=1e-4, atol=1e-5)


def test_teaches_a_detector_behind_dpk():
    dpk = dict(type='kd_mm.DPK', encoder=(16, 1, 2), decoder=(16, 1, 2), levels=[1, 2])
    link = dict(
        student='neck',
        teacher='neck',
        levels=[0, 1, 2],
        stages=[dpk],
        criterion=dict(type='kd_mm.FGDLoss'),
    )
    model = build(distill_cfg(toys.retinanet(), toys.retinanet(), dict(fpn=link)))
    logs = train_steps(model, blotchy_batches(1)[0], 6, lr=0.05)
    assert logs[-1]['loss_kd_fpn'] < logs[0]['loss_kd_fpn']


@pytest.mark.parametrize('wrong', [dict(tau=0), dict(relation=-1.0)])
def test_senseless_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=f'FGDLoss.{next(iter(wrong))}: '):
        FGDLoss(**wrong)


def test_vectors_and_unequal_widths_are_refused():
    pair = make_pair((2, 5, 6, 8))
    pair.student = [torch.randn(2, 5)]
    with pytest.raises(ConfigError, match='maps'):
        FGDLoss().setup(pair)
    pair = make_pair()
    pair.teacher = [torch.randn(2, 7, 6, 8)]
    criterion = FGDLoss()
    criterion.setup(pair)
    with pytest.raises(ConfigError, match='ConvAdapter'):
        criterion(pair)
