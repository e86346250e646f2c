"""ReviewKD: fusion of levels, and the hierarchical context loss."""

import pytest
import torch
import torch.nn.functional as F
import toys
from helpers import (
    build,
    classification_batch,
    detection_batch,
    distill_cfg,
    losses_of,
    train_steps,
)
from torch.autograd import gradcheck

from kd_mm.criteria import HCLLoss, hcl_loss, mse_loss
from kd_mm.errors import ConfigError
from kd_mm.pair import FeaturePair
from kd_mm.stages import ReviewKD
from kd_mm.stages.review import Fusion


def pair(student, teacher, **kwargs) -> FeaturePair:
    sides = dict(student=student, teacher=teacher)
    return FeaturePair(link='x', samples=[], image_size=(64, 64), **sides, **kwargs)


def naive_hcl(s, t, weight=None):
    """Sums over cells, one by one."""
    weight = torch.ones_like(s[:, :1]) if weight is None else weight
    side = s.shape[2]
    total, share = (weight * (s - t) ** 2).mean(), 1.0
    for factor, cells in ((0.5, 4), (0.25, 2), (0.125, 1)):
        if cells >= side:
            continue
        step = side // cells
        terms = []
        for y in range(cells):
            for x in range(cells):
                rows = slice(y * step, (y + 1) * step)
                columns = slice(x * step, (x + 1) * step)
                gap = (s - t)[:, :, rows, columns].mean((2, 3))
                terms.append(weight[:, 0, rows, columns].mean((1, 2))[:, None] * gap**2)
        total, share = total + factor * torch.stack(terms).mean(), share + factor
        # the authors halve with every coarser map that there is
    return total / share


@pytest.mark.parametrize('weighted', [False, True])
def test_hcl_equals_a_loop_over_cells(weighted):
    s, t = torch.randn(2, 3, 5, 8, 8, dtype=torch.float64)
    weight = torch.rand(3, 1, 8, 8, dtype=torch.float64) if weighted else None
    torch.testing.assert_close(hcl_loss(s, t, weight=weight), naive_hcl(s, t, weight))


def test_hcl_of_small_maps_skips_what_is_not_coarser():
    s, t = torch.randn(2, 3, 5, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(hcl_loss(s, t), mse_loss(s, t))
    torch.testing.assert_close(
        HCLLoss().loss(s[..., 0, 0], t[..., 0, 0]), mse_loss(s, t)
    )
    s, t = torch.randn(2, 3, 5, 4, 4, dtype=torch.float64)
    coarse = F.adaptive_avg_pool2d
    expected = mse_loss(s, t) + sum(
        mse_loss(coarse(s, n), coarse(t, n)) * factor
        for n, factor in ((2, 0.5), (1, 0.25))
    )
    torch.testing.assert_close(hcl_loss(s, t), expected / 1.75)


def test_hcl_has_the_right_gradient():
    s, t = torch.randn(2, 2, 3, 8, 6, dtype=torch.float64)
    weight = torch.rand(2, 1, 8, 6, dtype=torch.float64)
    s.requires_grad_()
    assert gradcheck(lambda s: hcl_loss(s, t, weight=weight), (s,))


def levels():
    student = [torch.randn(2, c, n, n) for c, n in ((4, 16), (8, 8), (12, 4))]
    teacher = [torch.randn(2, c, n, n) for c, n in ((6, 16), (10, 8), (14, 2))]
    vectors = torch.randn(2, 12), torch.randn(2, 14)
    return [*student, vectors[0]], [*teacher, vectors[1]]


def test_every_level_comes_to_the_teachers_width_and_size():
    student, teacher = levels()
    stage = ReviewKD(mid=5)
    stage.setup(pair(student, teacher))
    out = stage(pair(list(student), teacher)).student
    assert [x.shape for x in out] == [x.shape for x in teacher]


def test_a_level_reviews_the_deeper_ones_and_not_the_shallower():
    student, teacher = levels()
    stage = ReviewKD(mid=5).eval()
    stage.setup(pair(student, teacher))
    stage.eval()
    for i in range(len(student)):
        tracked = [s.clone().requires_grad_() for s in student]
        stage(pair(tracked, teacher)).student[i].square().sum().backward()
        reached = [x.grad is not None and bool(x.grad.abs().sum()) for x in tracked]
        assert reached == [j >= i for j in range(len(student))]


def test_refuses_tokens_and_no_width():
    with pytest.raises(ConfigError, match='takes maps'):
        ReviewKD().setup(pair([torch.randn(2, 3, 4)], [torch.randn(2, 3, 4)]))
    with pytest.raises(ConfigError, match='mid'):
        ReviewKD(mid=0)


@pytest.mark.parametrize('name', ['retinanet', 'classifier'])
def test_teaches_a_real_model(name):
    toy, detector = getattr(toys, name), name == 'retinanet'
    taps = 'neck' if detector else ['backbone', 'neck[2]']
    batch = detection_batch() if detector else classification_batch()
    link = dict(
        student=taps,
        teacher=taps,
        stages=[dict(type='kd_mm.ReviewKD', mid=16)],
        criterion=dict(type='kd_mm.HCLLoss'),
    )
    model = build(distill_cfg(toy(), toy(base=16), dict(maps=link)))
    logs = train_steps(model, batch, steps=4)
    assert 0 < logs[-1]['loss_kd_maps'] < logs[0]['loss_kd_maps']
    model.parse_losses(losses_of(model, batch))[0].backward()
    assert all(p.grad is not None for p in model.distiller.parameters())


def test_fusion_equals_attention_over_both_maps_put_together():
    fusion = Fusion(own=5, mid=4, out=6, first=False).double().eval()
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter)
    x, deeper = (
        torch.randn(2, width, side, side, dtype=torch.float64)
        for width, side in ((5, 6), (4, 3))
    )
    large = deeper.repeat_interleave(2, 2).repeat_interleave(2, 3)
    own = fusion.reduce(x)
    share = fusion.attend(torch.cat([own, large], 1)).sigmoid()
    fused = own * share[:, :1] + large * share[:, 1:]
    out, handed_on = fusion(x, deeper, torch.Size((6, 6)))
    torch.testing.assert_close(handed_on, fused)
    torch.testing.assert_close(out, fusion.expand(fused))
