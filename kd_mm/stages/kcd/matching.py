"""Which teacher channel belongs to which student channel: measures and transforms.

KCD, after the abstract of arXiv 2103.16844; measures and transforms are our choice,
from what is known to work in matching channels (Convergent Learning, Matching Guided
Distillation, Git Re-Basin).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ...pair import channel_dim
from .moments import Covariance

Reordering = Literal['identity', 'random', 'greedy', 'bipartite', 'grouped']
Matrix = Literal['procrustes', 'ridge']
Transform = Reordering | Matrix
MATRICES = get_args(Matrix)
TRANSFORMS = get_args(Reordering) + MATRICES


@dataclass(frozen=True)
class ChannelMap:
    """How M student channels meet the teacher's.

    Attributes:
        kept (Tensor): ``(M,)``, the student's channels that are compared.
        index (Tensor | None): ``(G, M)``, the teacher's channels that belong to each;
            -1: none. G is 1 but for 'grouped'.
        matrix (Tensor | None): ``(M, Ct)``, a linear map instead of an index.
    """

    kept: Tensor
    index: Tensor | None = None
    matrix: Tensor | None = None

    @property
    def first(self) -> Tensor:
        """``(M,)``, the teacher's channel of each; of 'grouped' the best matched."""
        if self.index is None:
            raise TypeError('a matrix has no index')
        return self.index[0]

    def linear(self, width: int) -> Tensor:
        """As a matrix ``(M, width)``; of 'grouped' only the first of each group."""
        if self.matrix is not None:
            return self.matrix
        return torch.eye(width, dtype=torch.float64)[self.first.cpu()]


def dead(variance: Tensor) -> Tensor:
    """Which channels never change: variance below 1e-10 of the mean."""
    return variance <= 1e-10 * variance.mean()


def correlation(cov: Covariance) -> Tensor:
    """Pearson correlation ``(Cs, Ct)`` of every pair; 0 where a channel is dead."""
    std_s, std_t = (
        torch.where(dead(v), torch.inf, v).sqrt()
        for v in (cov.ss.diagonal(), cov.tt.diagonal())
    )
    return cov.st / (std_s[:, None] * std_t)


def greedy_assignment(similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One-to-one, the most similar pair first, then the best of what is left.

    Args:
        similarity (np.ndarray): ``(rows, columns)``.

    Returns:
        tuple[np.ndarray, np.ndarray]: ``min(rows, columns)`` row and column numbers,
        sorted by row.
    """
    left: np.ndarray = similarity.astype(float, copy=True)
    best = left.argmax(1)
    value = left[np.arange(len(left)), best]
    pairs = []
    for _ in range(min(left.shape)):
        row = int(value.argmax())
        column = best[row]
        pairs.append((row, column))
        value[row] = -np.inf
        left[:, column] = -np.inf
        left[row] = -np.inf
        # only rows that wanted this column have to look again
        again = np.flatnonzero((best == column) & (value > -np.inf))
        best[again] = left[again].argmax(1)
        value[again] = left[again, best[again]]
    rows, columns = np.array(sorted(pairs)).T
    return rows, columns


def bipartite_assignment(similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One-to-one with the largest total similarity (Hungarian algorithm)."""
    return linear_sum_assignment(similarity, maximize=True)


def grouped_assignment(similarity: np.ndarray) -> np.ndarray:
    """Every teacher channel to one student channel: ``ceil(Ct / Cs)`` assignments.

    Args:
        similarity (np.ndarray): ``(Cs, Ct)`` with Ct >= Cs.

    Returns:
        np.ndarray: ``(groups, Cs)`` teacher channels, -1 where the last round ran out.
    """
    width_s, width_t = similarity.shape
    left = np.arange(width_t)
    groups = []
    while len(left):
        rows, columns = bipartite_assignment(similarity[:, left])
        group = np.full(width_s, -1)
        group[rows] = left[columns]
        groups.append(group)
        left = np.delete(left, columns)
    return np.stack(groups)


def control_map(transform: str, width_s: int, width_t: int, seed: int) -> ChannelMap:
    """'identity' (channel i to channel i) or a fixed 'random' one-to-one map.

    Of unequal widths the first (identity) or random channels of the wider side.
    """
    size = min(width_s, width_t)
    if transform == 'identity':
        return ChannelMap(torch.arange(size), torch.arange(size)[None])
    generator = torch.Generator().manual_seed(seed)
    kept = torch.arange(width_s)
    if width_s > width_t:
        kept = torch.randperm(width_s, generator=generator)[:size].sort().values
    index = torch.randperm(width_t, generator=generator)[:size]
    return ChannelMap(kept, index[None])


def fit_map(
    transform: str, cov: Covariance, *, ridge: float = 0.01, seed: int = 0
) -> ChannelMap:
    """Fit a transform of the teacher's channels to the student's.

    Args:
        transform (str): One of ``TRANSFORMS``, see
            :class:`kd_mm.stages.ChannelAlign`.
        cov (Covariance): Of both sides' channels.
        ridge (float): Regularisation of 'ridge', in mean teacher variances.
            Defaults to 0.01.
        seed (int): Of 'random'. Defaults to 0.

    Returns:
        ChannelMap: On the CPU; a matrix is float64.
    """
    width_s, width_t = cov.st.shape
    if transform in ('identity', 'random'):
        return control_map(transform, width_s, width_t, seed)
    everyone = torch.arange(width_s)
    if transform == 'procrustes':
        return ChannelMap(everyone, matrix=procrustes_matrix(cov).cpu())
    if transform == 'ridge':
        return ChannelMap(everyone, matrix=ridge_matrix(cov, ridge).cpu())
    similarity = correlation(cov).cpu().numpy()
    if transform == 'grouped' and width_t > width_s:
        return ChannelMap(everyone, torch.from_numpy(grouped_assignment(similarity)))
    assign = greedy_assignment if transform == 'greedy' else bipartite_assignment
    kept, index = assign(similarity)
    return ChannelMap(torch.from_numpy(kept), torch.from_numpy(index)[None])


def procrustes_matrix(cov: Covariance) -> Tensor:
    r"""The (semi-)orthogonal :math:`U V^T` of the SVD of the cross-covariance.

    Of all rotations the one that brings the centred teacher nearest to the student.

    Returns:
        Tensor: ``(Cs, Ct)``.
    """
    u, _, vh = torch.linalg.svd(cov.st, full_matrices=False)
    return u @ vh


def ridge_matrix(cov: Covariance, ridge: float) -> Tensor:
    r"""Ridge regression :math:`\Sigma_{st}(\Sigma_{tt} + \lambda I)^{-1}`, rescaled.

    What cannot be predicted would shrink to 0 and teach the student to be silent, so
    every row is rescaled to give the teacher's mean variance.

    Args:
        cov (Covariance): Of both sides' channels.
        ridge (float): :math:`\lambda` in mean teacher variances.

    Returns:
        Tensor: ``(Cs, Ct)``; rows of dead student channels are 0.
    """
    scale = cov.tt.diagonal().mean()
    damped = cov.tt + ridge * scale * torch.eye(len(cov.tt)).to(cov.tt)
    matrix = torch.linalg.solve(damped, cov.st.T).T
    variance = ((matrix @ cov.tt) * matrix).sum(1)
    gain = torch.where(dead(cov.ss.diagonal()) | (variance <= 0), 0, scale / variance)
    return matrix * gain.sqrt()[:, None]


def mapped(cov: Covariance, mapping: ChannelMap) -> Covariance:
    """Covariance after the map (of a group: its best channel), ``(M, M)`` each."""
    kept = mapping.kept.to(cov.st.device)
    matrix = mapping.linear(len(cov.tt)).to(cov.tt)
    return Covariance(
        cov.ss[kept][:, kept], cov.st[kept] @ matrix.T, matrix @ cov.tt @ matrix.T
    )


def rescaling(cov: Covariance, mapping: ChannelMap) -> tuple[Tensor, Tensor]:
    """Scale and offset ``(M,)`` that give mapped channels the student's two moments.

    A teacher's channel that never changes gets scale 0: it becomes the student's mean.
    Matching the moments, and not regressing, is our choice: a regression asks the
    student for silence wherever the two are little correlated.
    """
    if cov.means is None:
        raise TypeError('a covariance without means')
    after = mapped(cov, mapping)
    own, variance = after.ss.diagonal(), after.tt.diagonal()
    scale = torch.where(dead(variance), 0, own / variance).sqrt()
    mean_s, mean_t = cov.means
    there = mapping.linear(len(mean_t)).to(mean_t) @ mean_t
    return scale, mean_s[mapping.kept.to(mean_s.device)] - scale * there


def matched_correlation(cov: Covariance, mapping: ChannelMap) -> Tensor:
    """Correlation ``(M,)`` of every compared pair after the map."""
    return correlation(mapped(cov, mapping)).diagonal()


def total_similarity(cov: Covariance, mapping: ChannelMap) -> float:
    """Sum of the correlations of all pairs that the map brings together."""
    if mapping.index is None:
        return float(matched_correlation(cov, mapping).sum())
    index = mapping.index.cpu()
    pairs = correlation(cov).cpu()[mapping.kept.cpu(), index]
    return float(pairs[index >= 0].sum())


def cka_of(cov: Covariance) -> Tensor:
    """Linear CKA from covariances; equals :func:`kd_mm.stages.dpk.cka.linear_cka`."""
    return cov.st.square().sum() / (cov.ss.norm() * cov.tt.norm())


def selective(means: Tensor) -> Tensor:
    """Class means ``(K, C)`` of each channel as z-scores over the classes.

    Channels that are always on are the most active ones of every class, whatever they
    mean; this tells which are more active than for other classes. Constant ones are 0.
    """
    centred = means - means.mean(0)
    variance = centred.square().mean(0)
    return centred / torch.where(dead(variance), torch.inf, variance).sqrt()


def overlap_at_k(student: Tensor, teacher: Tensor, k: int = 10) -> float:
    """Share of a class's k most active channels that both networks agree on.

    Mean over classes of ``|top_k(S) & top_k(T)| / k``; by chance ``k / C``.

    Args:
        student (Tensor): ``(K, C)`` class means.
        teacher (Tensor): ``(K, C)`` class means, after the map.
        k (int): How many channels a class has. Defaults to 10.

    Returns:
        float: In [0, 1].
    """
    k = min(k, student.shape[1])
    ours, theirs = (
        torch.zeros_like(m, dtype=torch.bool).scatter_(1, m.topk(k, 1).indices, True)
        for m in (student, teacher)
    )
    return float((ours & theirs).sum(1).double().mean()) / k


def select(feature: Tensor, index: Tensor) -> Tensor:
    """Take channels by index; of a group, the entry of largest magnitude.

    Args:
        feature (Tensor): ``(N, C, H, W)``, ``(N, L, C)`` or ``(N, C)``.
        index (Tensor): ``(G, M)`` channels, -1: none.

    Returns:
        Tensor: The same form with M channels.
    """
    dim = channel_dim(feature)
    if len(index) == 1:
        return feature.index_select(dim, index[0])
    groups = feature.index_select(dim, index.clamp(min=0).flatten())
    groups = groups.unflatten(dim, index.shape)
    empty = (index < 0).view(*index.shape, *[1] * (feature.ndim - dim - 1))
    groups = groups.masked_fill(empty, 0)
    strongest = groups.abs().argmax(dim, keepdim=True)
    return groups.gather(dim, strongest).squeeze(dim)


def mix(feature: Tensor, matrix: Tensor) -> Tensor:
    """Frozen 1x1 convolution.

    Args:
        feature (Tensor): ``(N, C, H, W)``, ``(N, L, C)`` or ``(N, C)``.
        matrix (Tensor): ``(M, C)``.

    Returns:
        Tensor: The same form with M channels.
    """
    matrix = matrix.to(feature.dtype)
    if feature.ndim == 4:
        return F.conv2d(feature, matrix[:, :, None, None])
    return F.linear(feature, matrix)
