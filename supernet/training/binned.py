"""SPOS's paths of evenly drawn costs: a bin of multiply-adds, then a path in it (Guo et al. 2020, §3.3 and its code).

Where each gene has its cost, the paths of a bin are counted gene by gene over the sum of the costs, in units so fine
that the few which are beside the bin can be drawn again. Where costs depend on several genes at once, the paths are
members of a large uniform sample.
"""

from __future__ import annotations

import itertools
from bisect import bisect
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from supernet.errors import UserError
from supernet.families import layout
from supernet.quantities import digits
from supernet.space import Arch, Space
from supernet.training.paths import Pick, sampled

FINE = 4  # units of cost in a bin for each gene: 4 of 5 paths counted for a bin, or more, are in it
MOST = 20_000  # units from the cheapest path to the dearest
TRIES = 1000  # draws beside a bin after which it counts as empty
MOST_BINS = 10_000


class Bin(Protocol):
    """A path of the bin, all with the same probability; None where it was beside the bin."""

    def __call__(self, rng: np.random.Generator) -> Arch | None: ...


def flops_binned_path(space: Space, seed: int, bins: tuple[float, float, float]) -> Pick:
    """Path number n: a bin that has paths drawn uniformly, then one of its paths.

    Args:
        bins: of multiply-adds: from, to and width.

    Raises:
        UserError: no bin has a path, or there are too many bins.
    """
    low, high, width = bins
    told = f"FLOPs bins from {digits(low, 6)} to {digits(high, 6)} in steps of {digits(width, 6)}"
    if not 0 < width <= high - low:
        raise UserError(f"{told}: expected 0 < step ≤ to − from")
    if not (high - low) / width <= MOST_BINS:
        raise UserError(f"{told}: expected at most {MOST_BINS:,} bins")
    starts = [low + width * i for i in range(round((high - low) / width))]
    tables, base, genes = layout(space).priced(lambda spec: spec.flops)
    made: Callable[[float], Bin]
    if genes is None:
        counted = Counted(space, tables, base, width)
        least, most, made = counted.least, counted.most, counted.bin
    else:
        pool, costs = sampled(space, seed)
        least, most = costs.min(), costs.max()

        def made(start: float) -> Bin:
            inside = pool[(costs >= start) & (costs < start + width)]
            return lambda rng: tuple(inside[rng.integers(len(inside))].tolist()) if len(inside) else None

    filled = [draw for draw in map(made, starts) if _has_a_path(draw, seed)]
    if not filled:
        raise UserError(
            f"no path of {space.name} has between {digits(low, 6)} and {digits(high, 6)} multiply-adds (they have "
            f"{digits(least)} to {digits(most)}): set other bins, or sample uniformly"
        )

    def pick(n: int) -> Arch:
        rng = np.random.default_rng([seed, n])
        draw = filled[int(rng.integers(len(filled)))]
        return next(arch for arch in map(draw, itertools.repeat(rng)) if arch is not None)

    return pick


def _has_a_path(draw: Bin, seed: int) -> bool:
    rng = np.random.default_rng(seed)
    return any(draw(rng) is not None for _ in range(TRIES))


class Counted:
    """The open paths of a space by their cost, which is ``base`` plus one entry of each gene's table.

    Attributes:
        least, most: cost of the cheapest and of the dearest path.
    """

    def __init__(self, space: Space, tables: Sequence[Sequence[float]], base: float, width: float):
        self.tables, self.base, self.width = tables, base, width
        open_ = [[table[i] for i in allowed] for table, allowed in zip(tables, space.allowed, strict=True)]
        self.least, self.most = (base + sum(map(end, open_)) for end in (min, max))
        self.unit = max(width / (FINE * len(tables)), (self.most - self.least) / MOST)
        self.genes = []  # of each gene: its open choices, their units, and their cumulative shares by units so far
        ways = np.ones(1)  # by units: paths of the genes so far, as a share of all
        for costs, allowed in zip(open_, space.allowed, strict=True):
            units = [int((cost - min(costs)) / self.unit) for cost in costs]
            shares = np.zeros((len(ways) + max(units), len(units)))
            for choice, more in enumerate(units):
                shares[more : more + len(ways), choice] = ways / len(units)
            ways, cumulative = shares.sum(1), shares.cumsum(1)
            np.divide(cumulative, cumulative[:, -1:], out=cumulative, where=cumulative[:, -1:] > 0)
            self.genes.append((tuple(allowed), units, cumulative.tolist()))
        self.ways = ways

    def bin(self, start: float) -> Bin:
        """The paths that cost ``start`` or more, and less than ``start + width``."""
        # A path of u units costs at least u and less than u + genes units more than the cheapest one.
        first = max(int((start - self.least) / self.unit) - len(self.genes), 0)
        last = max(int((start + self.width - self.least) / self.unit) + 1, 0)
        ways = np.cumsum(self.ways[first:last])
        if not len(ways) or not ways[-1]:
            return lambda rng: None
        totals = (ways / ways[-1]).tolist()

        def draw(rng: np.random.Generator) -> Arch | None:
            at, *random = rng.random(1 + len(self.genes)).tolist()
            units, arch = first + bisect(totals, at), []
            for (choices, of_choice, cumulative), r in zip(reversed(self.genes), random, strict=True):
                choice = bisect(cumulative[units], r)
                units -= of_choice[choice]
                arch.append(choices[choice])
            arch.reverse()
            cost = self.base + sum(table[i] for table, i in zip(self.tables, arch, strict=True))
            return tuple(arch) if start <= cost < start + self.width else None

        return draw
