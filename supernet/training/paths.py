"""Which paths of a supernet a step trains: a function of the seed and the step, so the same on every rank."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from supernet.families import layout
from supernet.space import Arch, Space

Pick = Callable[[int], Arch]  # path number n
POOL, BINS, CANDIDATES = 100_000, 64, 3  # of attentive draws
MOST = 1000  # random paths in a step


class Candidates(NamedTuple):
    """Architectures of about the same cost, of which one is trained."""

    arches: tuple[Arch, ...]


def uniform_path(space: Space, seed: int) -> Pick:
    """Every open choice with the same probability."""
    return lambda n: space.sample(np.random.default_rng([seed, n]))


def fair_paths(space: Space, seed: int) -> Callable[[int], list[Arch]]:
    """FairNAS's strict fairness (Chu et al. 2021, §3.2): m paths that together have every choice of every gene once.

    m is the largest number of open choices. A gene with fewer has each of them m/n times, rounded up or down.
    """
    m = max(map(len, space.allowed))

    def draw(step: int) -> list[Arch]:
        rng = np.random.default_rng([seed, step])
        columns = [rng.permutation(np.resize(rng.permutation(open_), m)).tolist() for open_ in space.allowed]
        return list(zip(*columns, strict=True))

    return draw


def attentive_path(space: Space, seed: int) -> Callable[[int], Candidates]:
    """AttentiveNAS (Wang et al. 2021, §3.2): a cost drawn as uniform paths have it, some paths of about that cost.

    The prior of the costs is the histogram of 100,000 uniform paths over 64 bins of multiply-adds (25M wide in the
    paper's space of about 200M to 2G); the candidates are members of the drawn path's bin.
    """
    pool, ends = _pool(space, seed)

    def draw(n: int) -> Candidates:
        rng = np.random.default_rng([seed, n])
        member = int(rng.integers(len(pool)))
        place = int(np.searchsorted(ends, member, side="right"))
        first = int(ends[place - 1]) if place else 0
        return Candidates(tuple(tuple(pool[i].tolist()) for i in rng.integers(first, int(ends[place]), CANDIDATES)))

    return draw


@functools.lru_cache(maxsize=2)
def sampled(space: Space, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """100,000 uniform paths ``[N, genes]`` and their multiply-adds."""
    rng = np.random.default_rng([seed, 2**33])
    pool = np.stack([rng.choice(open_, POOL) for open_ in space.allowed], 1)
    tables, base, genes = layout(space).priced(lambda spec: spec.flops)
    by_gene: Sequence[tuple[int, ...]] = genes or [(i,) for i in range(len(tables))]
    costs = (np.asarray(table)[tuple(pool[:, own].T)] for table, own in zip(tables, by_gene, strict=True))
    return pool, sum(costs, np.full(POOL, base))


@functools.lru_cache(maxsize=2)
def _pool(space: Space, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Uniform paths ``[N, genes]`` by bins of multiply-adds, ascending, and where each bin that has any ends."""
    pool, costs = sampled(space, seed)
    edges = np.linspace(costs.min(), costs.max(), BINS + 1)[1:-1]
    bins = np.digitize(costs, edges)
    counts = np.bincount(bins)
    return pool[np.argsort(bins, kind="stable")], np.cumsum(counts[counts > 0])
