"""Centred kernel alignment: how alike are two representations of the same images?"""

import torch
from torch import Tensor

from ...errors import ConfigError


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    r"""Biased linear CKA, :math:`\|Y^T X\|_F^2 / (\|X^T X\|_F \|Y^T Y\|_F)`, centred.

    Source: Kornblith et al., arXiv 1905.00414, equation 3 with section 3. Invariant to
    rotations (so to permutations) and to isotropic scaling of the features.

    Args:
        x (Tensor): ``(n, ...)``, flattened to one vector per sample.
        y (Tensor): ``(n, ...)`` of the same samples; its width may differ.

    Returns:
        Tensor: A scalar in [0, 1]; nan where a side is constant.

    Raises:
        ConfigError: If the numbers of samples differ.

    Example:
        >>> x = torch.randn(8, 5)
        >>> linear_cka(x, 3 * x.flip(1))
        tensor(1.0000)
    """
    x, y = _samples(x, y)
    # the Gram matrices are small where features are wide, and the other way round
    if x.shape[0] <= max(x.shape[1], y.shape[1]):
        k, m = x @ x.T, y @ y.T
        return (k * m).sum() / (k.norm() * m.norm())
    return (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())


def hsic1(k: Tensor, m: Tensor) -> Tensor:
    r"""Unbiased estimator of HSIC from two Gram matrices.

    .. math:: \frac{1}{n(n-3)} \Big[ tr(\tilde K \tilde M)
        + \frac{1'\tilde K 1 \; 1'\tilde M 1}{(n-1)(n-2)}
        - \frac{2}{n-2} 1'\tilde K \tilde M 1 \Big]

    with the diagonals set to zero. Source: Song et al., JMLR 13 (2012), equation 5; as
    used on mini-batches by Nguyen et al., arXiv 2010.15327, equation 3.

    Args:
        k (Tensor): ``(n, n)``, symmetric.
        m (Tensor): ``(n, n)``, symmetric.

    Returns:
        Tensor: A scalar; may be negative.

    Raises:
        ConfigError: If n < 4, where the estimator is not defined.
    """
    n = k.shape[0]
    if n < 4 or k.shape != (n, n) or m.shape != (n, n):
        raise ConfigError(
            'hsic1 needs two (n, n) Gram matrices with n >= 4, got '
            f'{tuple(k.shape)} and {tuple(m.shape)}'
        )
    k = k - torch.diag(k.diagonal())
    m = m - torch.diag(m.diagonal())
    rows_k, rows_m = k.sum(1), m.sum(1)
    trace = (k * m).sum()
    means = rows_k.sum() * rows_m.sum() / ((n - 1) * (n - 2))
    cross = 2 * (rows_k @ rows_m) / (n - 2)
    return (trace + means - cross) / (n * (n - 3))


def hsic_terms(x: Tensor, y: Tensor) -> Tensor:
    """What CKA is made of: :func:`hsic1` of (K, M), (K, K) and (M, M), linear Grams.

    Args:
        x (Tensor): ``(n, ...)``, flattened to one vector per sample; n >= 4.
        y (Tensor): ``(n, ...)`` of the same samples.

    Returns:
        Tensor: ``(3,)``.

    Raises:
        ConfigError: If n < 4 or the numbers of samples differ.
    """
    x, y = _samples(x, y)
    k, m = x @ x.T, y @ y.T
    return torch.stack([hsic1(k, m), hsic1(k, k), hsic1(m, m)])


def cka(x: Tensor, y: Tensor) -> Tensor:
    r"""Unbiased mini-batch CKA, :math:`HSIC_1(K,M)/\sqrt{HSIC_1(K,K) HSIC_1(M,M)}`.

    K and M are the linear Gram matrices. Source: Nguyen et al., arXiv 2010.15327.

    Args:
        x (Tensor): ``(n, ...)``, flattened to one vector per sample; n >= 4.
        y (Tensor): ``(n, ...)`` of the same samples.

    Returns:
        Tensor: A scalar, at most about 1, negative where nothing is shared; nan where
        a side is constant.

    Raises:
        ConfigError: If n < 4 or the numbers of samples differ.
    """
    return cka_of_terms(hsic_terms(x, y))


def cka_of_terms(terms: Tensor) -> Tensor:
    """CKA from :func:`hsic_terms`, or from their mean over mini-batches.

    The mean of the terms over a window of mini-batches is the estimator of Nguyen et
    al., arXiv 2010.15327, equation 4: batches may be small, and no features are kept.

    Args:
        terms (Tensor): ``(3,)``.

    Returns:
        Tensor: A scalar.

    Example:
        >>> window = [hsic_terms(x, y) for x, y in batches]
        >>> cka_of_terms(torch.stack(window).mean(0))
    """
    return terms[0] / (terms[1] * terms[2]).sqrt()


def with_earlier(seen: Tensor, earlier: Tensor, least: int) -> Tensor:
    """Fill up a batch with samples of the batches before it.

    For batches that are too small for any estimator, of two images say.

    Args:
        seen (Tensor): ``(n, ...)`` of now.
        earlier (Tensor): ``(m, ...)``, newest first.
        least (int): How many samples are wanted.

    Returns:
        Tensor: All of ``seen``, then as many of ``earlier`` as are missing to
        ``least`` and there.
    """
    return torch.cat([seen, earlier[: max(least - len(seen), 0)]])


def _samples(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """One vector per sample, centred: biased CKA is defined so.

    The unbiased estimator does not mind an offset, but loses its digits to one.
    """
    if x.shape[0] != y.shape[0]:
        raise ConfigError(
            'CKA compares features of the same samples, got '
            f'{tuple(x.shape)} and {tuple(y.shape)}'
        )
    x, y = x.flatten(1), y.flatten(1)
    return x - x.mean(0), y - y.mean(0)
