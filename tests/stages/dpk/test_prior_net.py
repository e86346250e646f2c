"""DPK's networks: blocks, encoders that see their own tokens only, any size."""

import math

import pytest
import torch
from mmengine.logging import MMLogger
from mmpretrain.models.utils import build_2d_sincos_position_embedding

from kd_mm.stages.dpk.dpk import describe
from kd_mm.stages.dpk.prior_net import Block, PriorNet, Size, attend, sine_cosine


def net(patch=1, student=4, teacher=6) -> PriorNet:
    return PriorNet(
        student=student,
        teacher=teacher,
        patch=patch,
        encoder=Size(16, 2, 2),
        decoder=Size(16, 1, 2),
    )


def test_a_block_equals_its_formula():
    block, x = Block(8, 2).double(), torch.randn(3, 5, 8, dtype=torch.float64)
    torch.nn.init.normal_(block.q_bias)
    torch.nn.init.normal_(block.v_bias)
    y = block.norm1(x)
    q, k, v = (block.qkv.weight @ y.transpose(1, 2)).transpose(1, 2).chunk(3, 2)
    q, v = q + block.q_bias, v + block.v_bias
    heads = []
    for h in range(2):
        own = slice(4 * h, 4 * h + 4)
        score = q[..., own] @ k[..., own].transpose(1, 2) / math.sqrt(4)
        heads.append(score.softmax(2) @ v[..., own])
    expected = x + block.proj(torch.cat(heads, 2))
    expected = expected + block.mlp(block.norm2(expected))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize('patch', [1, 2])
def test_no_encoder_sees_a_token_of_the_other_side(patch):
    model = net(patch)
    student, teacher = torch.randn(2, 4, 8, 8), torch.randn(2, 6, 8, 8)
    tokens = (8 // patch) ** 2
    order = torch.rand(2, tokens).argsort(1)
    count = tokens // 3
    given = torch.zeros(2, tokens).scatter(1, order[:, :count], 1.0).bool()
    cells = given.view(2, 1, 8 // patch, 8 // patch)
    cells = cells.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    base = model(student, teacher, order, count)
    # hidden positions may hold anything
    student_2 = torch.where(cells, torch.randn(()) + student * 3, student)
    teacher_2 = torch.where(cells, teacher, torch.randn(()) - teacher)
    assert torch.equal(model(student_2, teacher_2, order, count), base)
    # and the positions that are given matter
    assert not torch.allclose(
        model(student, torch.where(cells, teacher + 1, teacher), order, count), base
    )
    assert not torch.allclose(
        model(torch.where(cells, student, student + 1), teacher, order, count), base
    )


def test_gradients_reach_the_student_only_through_its_own_positions():
    model = net()
    student = torch.randn(2, 4, 5, 7, requires_grad=True)
    order = torch.rand(2, 35).argsort(1)
    model(student, torch.randn(2, 6, 5, 7), order, 20).square().mean().backward()
    given = torch.zeros(2, 35).scatter(1, order[:, :20], 1.0).bool().view(2, 1, 5, 7)
    reached = student.grad.abs().sum(1, keepdim=True) > 0
    assert torch.equal(reached, ~given)


def test_tokens_come_back_to_their_places():
    """A permuted order of processing is the same computation."""
    model = net()
    student, teacher = torch.randn(1, 4, 4, 5), torch.randn(1, 6, 4, 5)
    first, second = torch.arange(20).split([8, 12])
    shuffled = torch.cat([first.flip(0), second[torch.randperm(12)]])[None]
    torch.testing.assert_close(
        model(student, teacher, torch.arange(20)[None], 8),
        model(student, teacher, shuffled, 8),
        atol=1e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize(
    ('dtype', 'rounding'), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_attention_is_softmax_of_scaled_products_both_ways(dtype, rounding):
    """Whichever way is taken for it; see benchmarks/attention.py."""
    given = [torch.randn(2, 3, 7, 8).to(dtype).requires_grad_() for _ in range(3)]
    exact = [x.detach().double().requires_grad_() for x in given]
    direction = torch.randn(2, 3, 7, 8).to(dtype)
    q, k, v = exact
    wanted = torch.softmax(q @ k.mT / 8**0.5, dim=-1) @ v
    found = attend(*given)
    assert found.dtype == dtype
    for x, by in ((found, direction), (wanted, direction.double())):
        x.backward(by)
    pairs = [
        (found, wanted),
        *((a.grad, b.grad) for a, b in zip(given, exact, strict=True)),
    ]
    for a, b in pairs:
        torch.testing.assert_close(a.double(), b, atol=rounding * 2, rtol=rounding)


def test_the_log_counts_every_product_attention_too(monkeypatch):
    said = []
    monkeypatch.setattr(MMLogger, 'info', lambda self, text: said.append(text))
    side, student, teacher = 20, 4, 6
    one = torch.zeros(1, student, side, side), torch.zeros(1, teacher, side, side)
    describe('here', net(), *one)
    tokens, dim = side * side, 16

    def blocks(length, depth):
        linear = length * dim * dim * (3 + 1 + 4 + 4)
        return depth * (linear + 2 * length * length * dim)

    products = (
        tokens * (student + teacher) * dim  # embeddings
        + 2 * blocks(tokens // 2, 2)
        + tokens * dim * dim
        + blocks(tokens, 1)
        + tokens * dim * teacher
    )
    assert f'{2 * products / 1e9:.3f} GFLOPs' in said[0]


@pytest.mark.parametrize('patch', [1, 2, 3])
def test_a_token_is_the_convolution_at_its_place(patch):
    """The embedding is a convolution with stride, computed where it is wanted."""
    model = net(patch).double()
    s, t = (torch.randn(2, c, 5, 7, dtype=torch.float64) for c in (4, 6))
    rows, columns = model.grid(5, 7)
    order = torch.rand(2, rows * columns).argsort(1)
    seen = []
    handle = model.encoders['student'].register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    model(s, t, order, count=2)
    handle.remove()
    below, right = rows * patch - 5, columns * patch - 7
    padded = torch.nn.functional.pad(s, (0, right, 0, below))
    every = model.embed['student'](padded).flatten(2).transpose(1, 2)
    every = every + model._positions((rows, columns), s.device)[0]
    expected = torch.stack([every[n, order[n, 2:]] for n in range(2)])
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize('grid', [(3, 5), (7, 7), (1, 4)])
def test_positions_equal_mmpretrains(grid):
    for dim in (8, 192):  # MMPretrain counts across first
        theirs = build_2d_sincos_position_embedding(grid[::-1], dim)
        assert torch.equal(sine_cosine(grid, dim), theirs)


def test_linear_layers_start_as_the_authors_do():
    """Xavier-uniform weights and zero biases in encoders and decoder."""
    torch.manual_seed(0)
    net = PriorNet(
        student=8, teacher=8, patch=1, encoder=Size(64, 2, 4), decoder=Size(48, 2, 4)
    )
    layers = [
        (name, module)
        for part in ('encoders', 'decoder')
        for name, module in getattr(net, part).named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    assert len(layers) == 4 * 2 * 2 + 4 * 2 + 1  # and the head
    for name, layer in layers:
        fan_out, fan_in = layer.weight.shape
        bound = math.sqrt(6 / (fan_in + fan_out))
        assert 0.9 * bound < float(layer.weight.detach().abs().max()) <= bound, name
        assert layer.bias is None or not layer.bias.detach().any(), name
