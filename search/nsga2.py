"""The pieces of NSGA-II, for minimisation over architectures. NumPy only.

K. Deb, A. Pratap, S. Agarwal, T. Meyarivan, "A fast and elitist multiobjective genetic algorithm: NSGA-II",
IEEE Trans. Evol. Comput. 6(2), 2002. Objective values are an array ``F [n, m]``, n points, m objectives,
all minimised. Random numbers come from a ``numpy.random.Generator`` that the caller passes in.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import numpy as np

from supernet.space import Arch


def fast_non_dominated_sort(F: np.ndarray) -> np.ndarray:
    """Nondomination rank [n] of every row of F [n, m]; the Pareto front has rank 1, as PAD-NAS counts.

    One point dominates another if it is no worse in every objective and better in at least one, so equal
    points share a rank (Deb 2002, §III-A). Time and memory O(m n²) and n² bytes: 25 MB for 5,000 points.

    >>> fast_non_dominated_sort(np.array([[0, 1], [1, 0], [1, 1], [2, 2], [0, 1]]))
    array([1, 1, 2, 3, 1])
    """
    F = _points(F)
    n = len(F)
    no_worse = np.ones((n, n), dtype=bool)
    better = np.zeros((n, n), dtype=bool)
    for f in F.T:
        no_worse &= f[:, None] <= f[None, :]
        better |= f[:, None] < f[None, :]
    dominates = no_worse & better
    dominators = dominates.sum(axis=0)  # n_p of the paper: how many points dominate p and have no rank yet
    ranks = np.zeros(n, dtype=np.int64)
    rank = 0
    while (front := np.flatnonzero((dominators == 0) & (ranks == 0))).size:
        rank += 1
        ranks[front] = rank
        dominators -= dominates[front].sum(axis=0)
    return ranks


def crowding_distance(F: np.ndarray) -> np.ndarray:
    """Crowding distance [n] of points F [n, m] of one front (Deb 2002, §III-B), averaged over the objectives.

    Conventions are pymoo's. Of up to two points all are infinite. In each objective the two ends of the sorted
    order are infinite; the sort is stable, so among points that tie for the minimum the first in F is the
    end, among those that tie for the maximum the last. An objective with only one value adds nothing,
    not even to its ends.

    >>> crowding_distance(np.array([[0.0, 4.0], [1.0, 1.0], [4.0, 0.0]]))
    array([inf,  1., inf])
    """
    F = _points(F)
    n, m = F.shape
    if n <= 2:
        return np.full(n, np.inf)
    distance = np.zeros(n)
    for f in F.T:
        order = np.argsort(f, kind="stable")
        f = f[order]
        span = f[-1] - f[0]
        if span == 0:
            continue
        distance[order[1:-1]] += ((f[1:-1] - f[:-2]) + (f[2:] - f[1:-1])) / span
        distance[order[[0, -1]]] = np.inf
    return distance / m


def rank_and_crowding(F: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nondomination ranks [n] and, within each front, crowding distances [n]."""
    F = _points(F)
    ranks = fast_non_dominated_sort(F)
    crowding = np.empty(len(F))
    for rank in range(1, ranks.max(initial=0) + 1):
        front = np.flatnonzero(ranks == rank)
        crowding[front] = crowding_distance(F[front])
    return ranks, crowding


def survival(F: np.ndarray, n: int) -> np.ndarray:
    """Indices of the n best rows of F, best first: by rank, then crowding, then position (Deb 2002, §III-C).

    All rows if F has fewer than n. Crowding is computed once per front, not again after every removal.

    >>> survival(np.array([[2, 2], [0, 4], [1, 1], [4, 0]]), 3)
    array([1, 3, 2])
    """
    ranks, crowding = rank_and_crowding(F)
    return np.lexsort((-crowding, ranks))[:n]  # lexsort is stable: ties go to the earlier row


def tournament(ranks: np.ndarray, crowding: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Indices [n] of the winners of n crowded binary tournaments (the operator ≺_n of Deb 2002, §III-B).

    Each is between two distinct points, if there are two: the lower rank wins, then the larger crowding
    distance, then the one drawn first.
    """
    size = len(ranks)
    a = rng.integers(size, size=n)
    b = (a + rng.integers(1, size, size=n)) % size if size > 1 else a
    b_wins = (ranks[b] < ranks[a]) | ((ranks[b] == ranks[a]) & (crowding[b] > crowding[a]))
    return np.where(b_wins, b, a)


def two_point_crossover(a: Arch, b: Arch, rng: np.random.Generator) -> tuple[Arch, Arch]:
    """Two children: the parents with the genes between two distinct interior cut points exchanged.

    With L genes there are L - 1 interior cut points. Two genes have only one, so the second gene is
    exchanged; one gene has none, so the children are the parents.
    """
    genes = len(a)
    if genes < 3:
        start, stop = 1, genes
    else:
        start, stop = sorted(int(cut) for cut in rng.choice(genes - 1, size=2, replace=False) + 1)
    return a[:start] + b[start:stop] + a[stop:], b[:start] + a[start:stop] + b[stop:]


def repair(arch: Arch, allowed: Sequence[Sequence[int]]) -> Arch:
    """``arch`` with every gene that is not allowed moved to the nearest allowed index, the lower on a tie.

    ``allowed[i]`` lists the open indices of gene i, ascending. So an architecture found before pruning can start
    a search after it.

    >>> repair((5, 1, 0), [(0, 4, 6), (1, 2), (3,)])
    (4, 1, 3)
    """
    return tuple(open_[_nearest(open_, index)] for index, open_ in zip(arch, allowed, strict=True))


def polynomial_mutation(
    arch: Arch,
    allowed: Sequence[Sequence[int]],
    rng: np.random.Generator,
    eta: float = 3.0,
    probability: float | None = None,
) -> Arch:
    """``arch`` with each gene mutated with ``probability`` (default 1 / genes); the result is always allowed.

    Bounded polynomial mutation (Deb & Agrawal 1999; the form of NSGA-II's code and of pymoo) moves the
    position x of the choice within ``allowed[i]``, an ascending list of k indices, by k·δ and rounds. Each
    side of x has probability 1/2 and density ∝ (1 - |δ|)^eta up to its bound. The bounds are -1/2 and k -
    1/2, so every choice has a cell of width one; with bounds 0 and k - 1 the end choices would have half a
    cell, and a gene of two choices would flip with probability .03 instead of .16. A gene that is not allowed is
    repaired first, whether or not it mutates.

    Neighbouring choices should be similar: listed by kernel, then expansion. Rounding may return the
    choice it started from. If selected for mutation, a gene with a uniformly drawn choice really changes with
    probability

        k        2     3     4     7    19
        eta 3  .16   .31   .42   .60   .82
        eta 20 .00   .01   .05   .18   .53
    """
    probability = 1 / len(arch) if probability is None else probability
    genes = list(repair(arch, allowed))
    selected = rng.random(len(genes)) < probability
    uniform = rng.random(len(genes))
    for i in np.flatnonzero(selected):
        open_ = allowed[i]
        x = bisect.bisect_left(open_, genes[i])
        genes[i] = open_[_polynomial_step(x, len(open_), float(uniform[i]), eta)]
    return tuple(genes)


def hypervolume(F: np.ndarray, reference: Sequence[float] | np.ndarray) -> float:
    """The exact volume that the points F [n, m] dominate, up to ``reference`` [m]; larger is better.

    Points that are not better than the reference in every objective add nothing, nor do dominated points.
    Two objectives take one sweep. More are cut into slices along the last one (Zitzler 2001; While et al.
    2006), each a hypervolume of one objective less. Time O(n^(m - 1)), so pass the front only.

    >>> hypervolume(np.array([[0, 2], [1, 1], [5, 0]]), (3, 3))
    5.0
    >>> hypervolume(np.array([[0, 0, 0], [0, 0, 1]]), (2, 2, 2))
    8.0
    """
    F = _points(F)
    top = np.asarray(reference, dtype=np.float64)
    if top.shape != F.shape[1:]:
        raise ValueError(f"the reference has {top.size} values, expected {F.shape[1]}, one per objective")
    F = F[(top > F).all(axis=1)]
    if not len(F):
        return 0.0
    if F.shape[1] == 1:
        return float(top[0] - F.min())
    F = F[np.lexsort(F.T)]  # by the last objective
    if F.shape[1] == 2:
        # Each point adds the strip between the leftmost point so far and itself.
        left = np.minimum.accumulate(np.concatenate((top[:1], F[:, 0])))
        return float(((left[:-1] - left[1:]) * (top[1] - F[:, 1])).sum())
    cuts = np.append(np.unique(F[:, -1]), top[-1])
    slices = (
        hypervolume(F[F[:, -1] <= z, :-1], top[:-1]) * depth for z, depth in zip(cuts[:-1], np.diff(cuts), strict=True)
    )
    return math.fsum(slices)


def _points(F: np.ndarray) -> np.ndarray:
    F = np.asarray(F, dtype=np.float64)
    if F.ndim != 2 or F.shape[1] == 0:
        raise ValueError(f"expected objective values [points, objectives], got shape {list(F.shape)}")
    if not np.isfinite(F).all():
        raise ValueError("objective values must be finite; a NaN is neither better nor worse than anything")
    return F


def _nearest(open_: Sequence[int], index: int) -> int:
    """Position in the ascending list ``open_`` of the entry nearest to ``index``."""
    right = bisect.bisect_left(open_, index)
    if right == len(open_) or (right > 0 and index - open_[right - 1] <= open_[right] - index):
        return right - 1
    return right


def _polynomial_step(x: int, k: int, u: float, eta: float) -> int:
    """The position in 0 … k - 1 where bounded polynomial mutation takes x for the uniform number u."""
    to_lower, to_upper = (x + 0.5) / k, (k - 0.5 - x) / k
    if u <= 0.5:
        delta = (2 * u + (1 - 2 * u) * (1 - to_lower) ** (eta + 1)) ** (1 / (eta + 1)) - 1
    else:
        delta = 1 - (2 * (1 - u) + (2 * u - 1) * (1 - to_upper) ** (eta + 1)) ** (1 / (eta + 1))
    return min(max(round(x + delta * k), 0), k - 1)
