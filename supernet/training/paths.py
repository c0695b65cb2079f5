"""Which paths of a supernet a step trains: a function of the seed and the step, so the same on every rank."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from supernet.errors import UserError
from supernet.families import layout
from supernet.space import Arch, Space

Pick = Callable[[int], Arch]  # path number n
POOL, BINS, CANDIDATES = 100_000, 64, 3  # of attentive draws


class Candidates(NamedTuple):
    """Architectures of about the same cost, of which one is trained."""

    arches: tuple[Arch, ...]


def uniform_path(space: Space, seed: int) -> Pick:
    """Every open choice with the same probability."""
    return lambda n: space.sample(np.random.default_rng([seed, n]))


def flops_binned_path(space: Space, seed: int, bins: tuple[float, float, float], tries: int = 200) -> Pick:
    """SPOS's code: a FLOPs bin drawn uniformly, a path in it by rejection, any path if ``tries`` find none.

    Raises:
        UserError: none of 2,000 uniform paths lies in any of the bins.
    """
    low, high, width = bins
    if not 0 < width <= high - low:
        raise UserError(f"FLOPs bins from {low:g} to {high:g} in steps of {width:g}: expected 0 < step ≤ to − from")
    specs = layout(space)

    def flops(arch: Arch) -> int:
        return sum(spec.flops for spec in specs.pick(arch))

    rng = np.random.default_rng(seed)
    sample = [flops(space.sample(rng)) for _ in range(2000)]
    if not any(low <= cost < high for cost in sample):
        raise UserError(
            f"no path of {space.name} has between {low:g} and {high:g} multiply-adds (they have {min(sample):.3g} to "
            f"{max(sample):.3g}): set other bins, or sample uniformly"
        )
    count = round((high - low) / width)

    def pick(n: int) -> Arch:
        rng = np.random.default_rng([seed, n])
        start = low + width * int(rng.integers(count))
        arch = space.sample_where(rng, lambda arch: start <= flops(arch) < start + width, tries)
        return arch if arch is not None else space.sample(rng)

    return pick


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
def _pool(space: Space, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Uniform paths ``[N, genes]`` by bins of multiply-adds, ascending, and where each bin that has any ends."""
    rng = np.random.default_rng([seed, 2**33])
    pool = np.stack([rng.choice(open_, POOL) for open_ in space.allowed], 1)
    tables, _, genes = layout(space).priced(lambda spec: spec.flops)
    by_gene: Sequence[tuple[int, ...]] = genes or [(i,) for i in range(len(tables))]
    costs = sum(np.asarray(table)[tuple(pool[:, own].T)] for table, own in zip(tables, by_gene, strict=True))
    edges = np.linspace(costs.min(), costs.max(), BINS + 1)[1:-1]
    bins = np.digitize(costs, edges)
    counts = np.bincount(bins)
    return pool[np.argsort(bins, kind="stable")], np.cumsum(counts[counts > 0])
