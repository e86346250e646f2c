"""Assignments, matrices and measures of channels."""

import pytest
import torch

from kd_mm.stages.kcd.matching import (
    TRANSFORMS,
    cka_of,
    correlation,
    fit_map,
    greedy_assignment,
    mapped,
    matched_correlation,
    overlap_at_k,
    total_similarity,
)
from kd_mm.stages.kcd.moments import Covariance


def rows(width: int, n: int = 400, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator, dtype=torch.float64)


def planted(width: int = 12, extra: int = 0):
    """Student rows, and a teacher that has them permuted, scaled and noisy."""
    student = rows(width).exp()
    order = torch.randperm(width + extra, generator=torch.Generator().manual_seed(1))
    wide = torch.cat([student, rows(extra, seed=2)], 1)
    scale = torch.rand(width + extra, generator=torch.Generator().manual_seed(3)) + 0.1
    teacher = (wide * scale)[:, order] + 0.02 * rows(width + extra, seed=4)
    return student, teacher, order.argsort()[:width]


@pytest.mark.parametrize('transform', ['greedy', 'bipartite'])
@pytest.mark.parametrize('extra', [0, 5])
def test_recovers_a_planted_permutation_under_scaling_and_noise(transform, extra):
    student, teacher, where = planted(extra=extra)
    found = fit_map(transform, Covariance.of(student, teacher))
    assert torch.equal(found.index[0], where)
    assert torch.equal(found.kept, torch.arange(12))


def test_a_narrow_teacher_is_matched_with_part_of_the_student():
    teacher, student, where = planted(extra=5)  # the student is the wider side
    found = fit_map('bipartite', Covariance.of(student, teacher))
    assert torch.equal(found.kept, where.sort().values)
    assert torch.equal(where[found.index[0]], found.kept)


@pytest.mark.parametrize('widths', [(16, 16), (12, 20), (20, 12)])
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_bipartite_is_at_least_greedy_is_at_least_random(widths, seed):
    both = rows(sum(widths), n=60, seed=seed)
    cov = Covariance.of(both[:, : widths[0]], both[:, widths[0] :])
    total = {
        name: total_similarity(cov, fit_map(name, cov))
        for name in ('bipartite', 'greedy', 'random')
    }
    assert total['bipartite'] >= total['greedy'] >= total['random']


def test_greedy_takes_the_best_pair_first():
    similarity = torch.tensor([[0.9, 0.8, 0.1], [0.85, 0.1, 0.0]]).numpy()
    found, columns = greedy_assignment(similarity)
    assert found.tolist() == [0, 1] and columns.tolist() == [0, 1]


def test_grouped_cuts_no_teacher_channel():
    student, teacher, where = planted(extra=7)
    found = fit_map('grouped', Covariance.of(student, teacher))
    assert found.index.shape == (2, 12)
    assert torch.equal(found.index[0], where)
    used = found.index[found.index >= 0]
    assert used.sort().values.tolist() == list(range(19))


def test_procrustes_is_orthogonal_and_undoes_a_rotation():
    student = rows(8)
    rotation = torch.linalg.qr(rows(8, n=8, seed=1)).Q
    found = fit_map('procrustes', Covariance.of(student, student @ rotation))
    torch.testing.assert_close(found.matrix, rotation)
    torch.testing.assert_close(
        found.matrix @ found.matrix.T, torch.eye(8, dtype=torch.float64)
    )


def test_ridge_predicts_the_student_in_the_teachers_scale():
    teacher = rows(8)
    student = teacher @ rows(8, n=8, seed=1)[:, :5]
    cov = Covariance.of(student, teacher)
    found = fit_map('ridge', cov, ridge=1e-6)
    assert matched_correlation(cov, found).min() > 0.999
    variance = mapped(cov, found).tt.diagonal()
    torch.testing.assert_close(variance, cov.tt.diagonal().mean().expand(5))


@pytest.mark.parametrize('transform', TRANSFORMS)
def test_dead_channels_have_similarity_0_and_break_nothing(transform):
    student, teacher, where = planted()
    student[:, 3] = 7.0
    teacher[:, 0] = 0.0
    cov = Covariance.of(student, teacher)
    similarity = correlation(cov)
    assert (similarity[3] == 0).all() and (similarity[:, 0] == 0).all()
    found = fit_map(transform, cov)
    assert matched_correlation(cov, found).isfinite().all()
    if transform == 'bipartite':
        live = [i for i in range(12) if i != 3 and where[i] != 0]
        assert torch.equal(found.index[0][live], where[live])


def test_cka_cannot_see_a_permutation_or_a_rotation():
    student, teacher, _ = planted()
    cov = Covariance.of(student, teacher)
    for transform in ('random', 'bipartite', 'procrustes'):
        torch.testing.assert_close(
            cka_of(mapped(cov, fit_map(transform, cov))), cka_of(cov)
        )


def test_overlap_is_1_for_the_same_channels_and_chance_for_random_ones():
    means = torch.rand(200, 50, generator=torch.Generator().manual_seed(0))
    other = torch.rand(200, 50, generator=torch.Generator().manual_seed(1))
    assert overlap_at_k(means, 3 * means, k=10) == 1
    assert overlap_at_k(means, other, k=10) == pytest.approx(0.2, abs=0.02)
    assert overlap_at_k(means[:, :4], other[:, :4], k=10) == 1  # k is at most C
