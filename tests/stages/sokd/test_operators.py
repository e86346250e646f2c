"""The nine operators of DAFA."""

import math

import pytest
import torch
import torch.nn.functional as F

from kd_mm.stages.sokd.operators import OPERATORS, Chance

SMOOTH = [name for name, op in OPERATORS.items() if op.smooth]
SPATIAL = [name for name, op in OPERATORS.items() if op.spatial]
CHANCE = Chance(centre=(0.2, -0.4), seed=11)
ASPECT = 0.75
RANGES = dict(ShearX=0.3, ShearY=0.3, TranslateX=0.45, TranslateY=0.45, Rotate=30.0)


def run(name, feature, magnitude, chance=CHANCE, aspect=ASPECT):
    return OPERATORS[name](feature, torch.as_tensor(magnitude), chance, aspect)


def sample(feature, x, y):
    """Bilinear value at normalised (x, y) by definition; 0 outside the map."""
    n, c, height, width = feature.shape
    col, row = ((x + 1) * width - 1) / 2, ((y + 1) * height - 1) / 2
    total = torch.zeros(n, c, dtype=feature.dtype)
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(col), math.floor(col) + 1):
            if 0 <= i < height and 0 <= j < width:
                share = (1 - abs(row - i)) * (1 - abs(col - j))
                total += share * feature[:, :, i, j]
    return total


def source(name, value, x, y):
    """Where an operator takes the value at normalised (x, y) from."""
    if name == 'ShearX':
        return x + value * y, y
    if name == 'ShearY':
        return x, y + value * x
    if name == 'TranslateX':
        return x + 2 * value, y
    if name == 'TranslateY':
        return x, y + 2 * value
    angle = math.radians(value)  # in pixels: x is 1 / aspect times as long as y
    px, py = x, y * ASPECT
    px, py = (
        px * math.cos(angle) - py * math.sin(angle),
        px * math.sin(angle) + py * math.cos(angle),
    )
    return px, py / ASPECT


@pytest.mark.parametrize('name', [n for n in SPATIAL if n != 'Cutout'])
def test_a_geometric_operator_samples_where_the_formula_says(name):
    feature, magnitude = torch.randn(2, 3, 6, 8), float(torch.rand(()))
    got = run(name, feature, magnitude)
    value = (2 * magnitude - 1) * RANGES[name]
    for i in range(6):
        for j in range(8):
            x, y = (2 * j + 1) / 8 - 1, (2 * i + 1) / 6 - 1
            expected = sample(feature, *source(name, value, x, y))
            torch.testing.assert_close(got[:, :, i, j], expected, atol=1e-5, rtol=1e-4)


def test_cutout_is_one_rectangle_of_zeros():
    feature = torch.rand(2, 3, 20, 30) + 1
    got = run('Cutout', feature, 1.0)
    rows, cols = (got == 0)[0, 0].nonzero().T
    # sides are 0.2 of the map's, around (0.2, -0.4)
    assert rows.unique().tolist() == [5, 6, 7]
    assert cols.unique().tolist() == [16, 17, 18, 19, 20]
    assert (got == 0).sum() == 2 * 3 * 15
    assert torch.equal(got[got != 0], feature[got != 0])


def test_noise_is_relative_to_the_features_deviation():
    feature = 7 * torch.randn(4, 8, 32, 32) + 5
    added = run('Noise', feature, 0.5) - feature
    assert float(added.std() / feature.std()) == pytest.approx(0.05, rel=0.05)
    assert abs(float(added.mean())) < 0.02


def test_channel_operators_move_or_clear_whole_channels():
    feature = torch.randn(2, 64, 4, 4)
    shuffled = run('ChannelShuffle', feature, 0.5)
    assert not torch.equal(shuffled, feature)
    rows = {tuple(c.flatten().tolist()) for c in feature.transpose(0, 1)}
    assert {tuple(c.flatten().tolist()) for c in shuffled.transpose(0, 1)} == rows
    dropped = run('ChannelDrop', feature, 1.0)
    gone = (dropped == 0).transpose(0, 1).flatten(1).all(1)
    assert 16 < int(gone.sum()) < 48  # half of 64 on average
    assert torch.equal(dropped[:, ~gone], feature[:, ~gone])


@pytest.mark.parametrize('name', list(OPERATORS))
@pytest.mark.parametrize('magnitude', [0.3, 1.0])
def test_values_really_change(name, magnitude):
    feature = torch.randn(2, 16, 9, 7)
    assert not torch.allclose(run(name, feature, magnitude), feature, atol=0.01)


@pytest.mark.parametrize('name', [n for n, op in OPERATORS.items() if op.graded])
def test_zero_strength_is_identity(name):
    feature = torch.randn(2, 16, 9, 7)
    nothing = 0.5 if name in RANGES else 0.0
    torch.testing.assert_close(
        run(name, feature, nothing), feature, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('name', list(OPERATORS))
def test_shape_and_dtype_are_kept(name, dtype):
    shapes = [(2, 5, 1, 1), (1, 6, 3, 8)]
    shapes += [] if OPERATORS[name].spatial else [(4, 6), (2, 9, 6)]
    for shape in shapes:
        feature = torch.randn(shape).to(dtype)
        got = run(name, feature, 0.7)
        assert (got.shape, got.dtype) == (feature.shape, dtype)


@pytest.mark.parametrize('name', SMOOTH)
def test_the_magnitudes_gradient_is_the_true_one(name):
    # smooth and 0 at the border, so that a finite step sees no kinks
    feature, target = (
        F.interpolate(x, (64, 64), mode='bicubic', align_corners=True)
        for x in torch.randn(2, 2, 3, 4, 4)
    )
    window = torch.hann_window(64, periodic=False)
    feature = feature * window * window[:, None]
    magnitude = torch.tensor(0.37, requires_grad=True)
    (run(name, feature, magnitude) * target).mean().backward()
    step = 2e-3
    ends = [
        float((run(name, feature, 0.37 + s).double() * target).mean())
        for s in (step, -step)
    ]
    expected = (ends[0] - ends[1]) / (2 * step)
    assert float(magnitude.grad) == pytest.approx(expected, rel=0.05, abs=2e-4)


@pytest.mark.parametrize('name', ['Cutout', 'ChannelDrop'])
def test_elsewhere_the_magnitude_has_a_straight_through_gradient(name):
    feature, slope = torch.randn(2, 4, 6, 6), torch.randn(2, 4, 6, 6)
    magnitude = torch.tensor(0.5, requires_grad=True)
    got = run(name, feature, magnitude)
    assert torch.equal(got, run(name, feature, 0.5))
    (got * slope).sum().backward()
    assert float(magnitude.grad) == pytest.approx(float(slope.sum()), rel=1e-4)


@pytest.mark.parametrize('name', SPATIAL)
def test_levels_stay_aligned(name):
    """What happens at a place of the image happens there on every level."""
    fine = F.interpolate(torch.randn(1, 2, 4, 4), (64, 64), mode='bicubic')
    coarse = F.avg_pool2d(fine, 4)
    got, expected = run(name, coarse, 0.8), F.avg_pool2d(run(name, fine, 0.8), 4)
    inner = slice(3, -3)  # interpolation differs at the border and at the hole's rim
    error = (got - expected)[..., inner, inner].abs()
    assert float(error.median()) < 0.05
    assert float((error < 0.15).float().mean()) > 0.8


@pytest.mark.parametrize('name', ['Noise', 'ChannelShuffle', 'ChannelDrop'])
def test_levels_of_one_width_lose_the_same_channels(name):
    if name == 'Noise':
        a, b = (run(name, torch.ones(1, 4, 2, 2), 0.5) for _ in range(2))
        assert torch.equal(a, b)
        return
    values = torch.arange(1.0, 9.0)
    fine, coarse = values.view(1, 8, 1, 1).expand(1, 8, 6, 6), values.view(1, 8, 1, 1)
    assert torch.equal(
        run(name, fine, 0.9)[0, :, 0, 0], run(name, coarse, 0.9)[0, :, 0, 0]
    )
