"""CKA against sums written out in full."""

import itertools

import pytest
import torch

from kd_mm.errors import ConfigError
from kd_mm.stages.dpk.cka import (
    cka,
    cka_of_terms,
    hsic1,
    hsic_terms,
    linear_cka,
    with_earlier,
)
from kd_mm.stages.kcd.matching import cka_of
from kd_mm.stages.kcd.moments import Covariance


def rows(n: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator, dtype=torch.float64)


def hsic_by_definition(k, m) -> float:
    """Unbiased HSIC as a mean over tuples of distinct samples."""
    n = len(k)
    pairs = list(itertools.permutations(range(n), 2))
    triples = list(itertools.permutations(range(n), 3))
    quadruples = list(itertools.permutations(range(n), 4))
    a = sum(float(k[i, j] * m[i, j]) for i, j in pairs) / len(pairs)
    b = sum(float(k[i, j] * m[i, q]) for i, j, q in triples) / len(triples)
    c = sum(float(k[i, j] * m[q, r]) for i, j, q, r in quadruples) / len(quadruples)
    return a - 2 * b + c


def test_hsic1_is_the_mean_over_tuples_of_distinct_samples():
    x, y = rows(7, 3, 0), rows(7, 5, 1) + 2
    k, m = x @ x.T, y @ y.T
    assert float(hsic1(k, m)) == pytest.approx(hsic_by_definition(k, m), abs=1e-12)


def test_cka_is_the_normalised_hsic_of_the_definition():
    x = rows(6, 4, 0)
    y = x[:, :2].repeat(1, 2) + 0.1 * rows(6, 4, 1)
    k, m = x @ x.T, y @ y.T
    norm = hsic_by_definition(k, k) * hsic_by_definition(m, m)
    expected = hsic_by_definition(k, m) / norm**0.5
    assert float(cka(x, y)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize('n', [5, 40])
def test_linear_cka_equals_a_double_loop_over_centred_gram_matrices(n):
    x, y = rows(n, 8, 0), rows(n, 12, 1) + 3
    k, m = ((z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, y))
    sums = [
        sum(float(a[i, j] * b[i, j]) for i in range(n) for j in range(n))
        for a, b in ((k, m), (k, k), (m, m))
    ]
    expected = sums[0] / (sums[1] * sums[2]) ** 0.5
    assert float(linear_cka(x, y)) == pytest.approx(expected, rel=1e-10)
    assert float(cka_of(Covariance.of(x, y))) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize('measure', [cka, linear_cka])
def test_cka_ignores_permutation_and_scale(measure):
    x, y = rows(20, 6, 0), rows(20, 6, 1)
    order = torch.randperm(6)
    torch.testing.assert_close(measure(x, y), measure(x, 3 * y[:, order]))
    torch.testing.assert_close(measure(x, 2 * x[:, order]), torch.ones(()).double())


def test_an_offset_costs_no_digits():
    x, y = rows(16, 1024, 1), rows(16, 1024, 2)
    y = x + 0.5 * y
    exact = float(cka(x.double(), y.double()))
    for spread in (1.0, 0.03, 0.01):
        near = cka((spread * x + 5).float(), (spread * y + 5).float())
        assert float(near) == pytest.approx(exact, abs=1e-4)


def test_cka_needs_four_samples_of_both_sides():
    with pytest.raises(ConfigError, match='n >= 4'):
        cka(rows(3, 2, 0), rows(3, 2, 1))
    with pytest.raises(ConfigError, match='same samples'):
        linear_cka(rows(3, 2, 0), rows(4, 2, 1))


def test_unbiased_hsic_equals_a_double_loop_over_pairs():
    """The definition: means over tuples of distinct samples."""
    n = 6
    k, m = (
        (lambda x: x @ x.T)(torch.randn(n, 3, dtype=torch.float64)) for _ in range(2)
    )
    pairs = triples = quads = 0.0
    for i in range(n):
        for j in range(n):
            if i == j:
                continue
            pairs += float(k[i, j] * m[i, j])
            for q in range(n):
                if q in (i, j):
                    continue
                triples += float(k[i, j] * m[i, q])
                for r in range(n):
                    if r not in (i, j, q):
                        quads += float(k[i, j] * m[q, r])
    expected = (
        pairs / (n * (n - 1))
        + quads / (n * (n - 1) * (n - 2) * (n - 3))
        - 2 * triples / (n * (n - 1) * (n - 2))
    )
    assert float(hsic1(k, m)) == pytest.approx(expected, rel=1e-9)


def test_a_window_of_batches_is_the_mean_of_their_terms():
    x = torch.randn(40, 7, dtype=torch.float64)
    y = x @ torch.randn(7, 5, dtype=torch.float64) + torch.randn(40, 5).double()
    window = torch.stack([hsic_terms(a, b) for a, b in zip(x.split(8), y.split(8))])
    whole, mean = cka(x, y), cka_of_terms(window.mean(0))
    assert float(cka_of_terms(window[0])) == pytest.approx(float(cka(x[:8], y[:8])))
    assert abs(float(mean - whole)) < 0.2  # two estimates of one number
    assert float(mean) != pytest.approx(float(whole), abs=1e-6)


def test_many_batches_estimate_what_one_of_all_does():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 6, dtype=torch.float64, generator=generator)
    y = x[:, :4] + 0.5 * torch.randn(4000, 4, dtype=torch.float64, generator=generator)
    terms = torch.stack([hsic_terms(a, b) for a, b in zip(x.split(4), y.split(4))])
    got = float(cka_of_terms(terms.mean(0)))
    assert got == pytest.approx(float(cka(x, y)), abs=0.03)


def test_a_batch_is_filled_up_with_the_newest_of_the_earlier():
    seen, earlier = torch.arange(3.0), torch.arange(10.0, 16.0)
    assert with_earlier(seen, earlier, 5).tolist() == [0, 1, 2, 10, 11]
    assert with_earlier(seen, earlier, 2).tolist() == [0, 1, 2]
    assert len(with_earlier(seen, earlier, 20)) == 9
