"""Costs of an architecture, and the windows that a search keeps them in. No torch.

A cost is any ``Callable[[Arch], float]``. One with a method ``bounds(space)`` says exactly what a space can attain:
``AdditiveCost`` (the sum of a latency table, FLOPs, parameters) and ``MaxCost`` (peak activations).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from supernet.errors import UserError
from supernet.extremes import extreme
from supernet.quantities import digits
from supernet.space import Arch, Space

Cost = Callable[[Arch], float]

# Spaces up to this size are listed rather than sampled: then nothing inside a window is missed.
ENUMERABLE = 4096


@dataclass(frozen=True)
class TableCost:
    """A cost that combines a base and one entry of every table.

    ``table[i][j]`` belongs to choice j of gene i, open or not: pruning a space does not change its costs. Where a
    layer's cost depends on several genes (the depth and the width of a stage), ``genes[i]`` names those of table i,
    an array with an axis for each.
    """

    table: Sequence[Any]
    base: float = 0.0
    genes: Sequence[tuple[int, ...]] | None = None

    _combine: ClassVar[np.ufunc]

    def __call__(self, arch: Arch) -> float:
        raise NotImplementedError

    def _entries(self, arch: Arch) -> Iterator[float]:
        if self.genes is None:
            return (row[i] for row, i in zip(self.table, arch, strict=True))
        return (table[tuple(arch[g] for g in genes)] for table, genes in zip(self.table, self.genes, strict=True))

    def bounds(self, space: Space) -> tuple[float, float]:
        """The smallest and the largest value among the open architectures of ``space``, exactly."""
        if self.genes is None and [len(row) for row in self.table] != [len(gene.choices) for gene in space.genes]:
            raise UserError(
                f"the cost table has {[len(row) for row in self.table]} choices per gene, "
                f"space {space.name} has {[len(gene.choices) for gene in space.genes]}"
            )
        genes = self.genes or [(i,) for i in range(len(self.table))]
        arches = (extreme(space, self.table, genes, type(self)._combine, pick) for pick in (np.argmin, np.argmax))
        low, high = map(self, arches)
        return low, high


class AdditiveCost(TableCost):
    """base + Σ_i table[i][arch[i]], correctly rounded, so that it does not depend on the order of the genes.

    >>> latency = AdditiveCost([[0.1, 0.3], [0.2, 0.6]], base=1.0)
    >>> latency((1, 0))
    1.5
    >>> AdditiveCost([np.array([[1, 2], [3, 4]])], genes=[(0, 1)])((1, 0))
    3.0
    """

    _combine = np.add

    def __call__(self, arch: Arch) -> float:
        return math.fsum((self.base, *self._entries(arch)))


class MaxCost(TableCost):
    """max(base, max_i table[i][arch[i]]): what the most demanding layer needs, such as peak memory.

    >>> MaxCost([[1, 8], [2, 6]], base=3)((0, 1))
    6
    """

    _combine = np.maximum

    def __call__(self, arch: Arch) -> float:
        return max(self.base, *self._entries(arch))


def attainable(space: Space, cost: Cost) -> tuple[float, float] | None:
    """Exact minimum and maximum of ``cost`` over ``space``, or None if the cost has no ``bounds``."""
    bounds = getattr(cost, "bounds", None)
    return None if bounds is None else bounds(space)


class Window:
    """The architectures of ``space`` whose costs lie within ``bounds``, both ends included.

    Args:
        costs: every cost by name; those without bounds are ignored here.
        bounds: (lowest, highest) by cost name, in the unit of the cost; an infinite end leaves that side open.

    Raises:
        UserError: a bound without a cost, an empty interval, or one that no architecture can be in.

    >>> from supernet.space import Choice, Gene
    >>> genes = tuple(Gene(name, (Choice("ib", 3, 1), Choice("ib", 3, 6)), 8, 8, 1) for name in ("first", "second"))
    >>> space = Space("tiny", 3, 8, 10, 8, 1, 16, "relu6", genes, ((0, 1), (0, 1)))
    >>> latency = AdditiveCost([[0.1, 0.3], [0.2, 0.6]])
    >>> window = Window(space, {"latency": latency}, {"latency": (0.4, 0.8)})
    >>> (0, 1) in window, (1, 1) in window
    (True, False)
    >>> Window(space, {"latency": latency}, {"latency": (0, 0.1)})
    Traceback (most recent call last):
    supernet.errors.UserError: latency <= 0.1 cannot be met: space tiny attains 0.3 to 0.9
    """

    def __init__(self, space: Space, costs: Mapping[str, Cost], bounds: Mapping[str, tuple[float, float]]) -> None:
        self.space = space
        self.bounds = {name: (float(low), float(high)) for name, (low, high) in bounds.items()}
        for name, (low, high) in self.bounds.items():
            if name not in costs:
                raise UserError(f"bounds on {name}, but the costs are {', '.join(costs) or 'none'}")
            if not low <= high:
                raise UserError(f"the bounds on {name} are {low:g} to {high:g}; expected lowest <= highest")
            limits = attainable(space, costs[name])
            if limits is not None and not (low <= limits[1] and limits[0] <= high):
                wish = _interval(name, -math.inf, high) if high < limits[0] else _interval(name, low, math.inf)
                raise UserError(f"{wish} cannot be met: space {space.name} attains {' to '.join(map(_plain, limits))}")
        self.costs = {name: costs[name] for name in self.bounds}
        self._listed: list[Arch] | None = None

    def __contains__(self, arch: Arch) -> bool:
        return all(low <= measure(name, self.costs[name], arch) <= high for name, (low, high) in self.bounds.items())

    def violation(self, arch: Arch) -> float:
        """How far outside ``arch`` is: Σ over costs of the distance to the bound, relative to it."""
        total = 0.0
        for name, (low, high) in self.bounds.items():
            value = measure(name, self.costs[name], arch)
            if value < low:
                total += (low - value) / (abs(low) or 1.0)
            elif value > high:
                total += (value - high) / (abs(high) or 1.0)
        return total

    def sample(self, rng: np.random.Generator, n: int, known: Collection[Arch], tries: int) -> list[Arch]:
        """Up to n distinct members that are not in ``known``; fewer if no more are found.

        A space of at most ``ENUMERABLE`` architectures is listed, so fewer means that there are no more. A
        larger one is sampled uniformly, with up to ``tries`` draws for each member. If they find none, the window is
        narrow: from then on architectures walk into it (``_walk``), again up to ``tries`` for each member, half of
        them from random starts and half from found members with a tenth of their genes redrawn. Walks need
        no table and work with bounds on several costs, but favour members near the edge of the window.
        """
        if self.space.size <= ENUMERABLE:
            if self._listed is None:
                self._listed = [arch for arch in self.space.enumerate() if arch in self]
            rest = [arch for arch in self._listed if arch not in known]
            return [rest[i] for i in rng.permutation(len(rest))[:n]]

        found: list[Arch] = []

        def new(arch: Arch) -> bool:
            return arch not in found and arch not in known and arch in self

        uniform = True
        while len(found) < n:
            arch = self.space.sample_where(rng, new, tries) if uniform else None
            uniform = arch is not None
            left = tries
            while arch is None and left > 0:
                start = self.space.sample(rng)
                if found and rng.random() < 0.5:
                    member, redraw = found[int(rng.integers(len(found)))], rng.random(len(start)) < 0.1
                    start = tuple(np.where(redraw, start, member).tolist())
                arch, tried = self._walk(rng, start)
                left -= tried + 1
                arch = arch if new(arch) else None
            if arch is None:
                break
            found.append(arch)
        return found

    def spread(
        self,
        rng: np.random.Generator,
        n: int,
        name: str,
        cost: TableCost,
        known: Collection[Arch] = (),
        tries: int = 100,
    ) -> list[Arch]:
        """Up to n distinct members that are not in ``known``, a random one of each of n equal intervals of a cost.

        Uniform draws gather in the middle of what a space attains. Where an interval is empty another one gives two.

        Args:
            name: of the cost, in the bounds too. tries: as ``sample`` has it.
        """
        limits, given = cost.bounds(self.space), self.bounds.get(name, (-math.inf, math.inf))
        costs: dict[str, Cost] = {**self.costs, name: cost}
        found: list[Arch] = []
        for ends in itertools.pairwise(np.linspace(max(limits[0], given[0]), min(limits[1], given[1]), n + 1)):
            part = Window(self.space, costs, {**self.bounds, name: ends})
            found += part.sample(rng, 1, {*known, *found}, tries)
        return found + self.sample(rng, n - len(found), {*known, *found}, tries)

    def beyond(self, members: Collection[Arch]) -> str:
        """The nearest costs outside each bound, as a hint how far to widen the window; empty if there are none.

        In a space of at most ``ENUMERABLE`` architectures all are considered, else those that differ from a member in
        one gene. An architecture outside several bounds does not count: widening one would not admit it.

        >>> from supernet.space import Choice, Gene
        >>> genes = tuple(Gene(name, (Choice("ib", 3, 1), Choice("ib", 3, 6)), 8, 8, 1) for name in ("first", "second"))
        >>> space = Space("tiny", 3, 8, 10, 8, 1, 16, "relu6", genes, ((0, 1), (0, 1)))
        >>> latency = AdditiveCost([[0.1, 0.3], [0.2, 0.6]])
        >>> Window(space, {"latency": latency}, {"latency": (0.4, 0.6)}).beyond([(1, 0)])
        'the nearest beyond have latency 0.3 and 0.7'
        """
        if self.space.size <= ENUMERABLE:
            around: Collection[Arch] = self.space.enumerate()
        else:
            around = [change for arch in members for gene in range(len(arch)) for change in self._changes(arch, gene)]
        below: dict[str, float] = {}
        above: dict[str, float] = {}
        for arch in around:
            values = {name: measure(name, cost, arch) for name, cost in self.costs.items()}
            broken = [name for name, (low, high) in self.bounds.items() if not low <= values[name] <= high]
            if len(broken) == 1:
                name, value = broken[0], values[broken[0]]
                if value < self.bounds[name][0]:
                    below[name] = max(value, below.get(name, value))
                else:
                    above[name] = min(value, above.get(name, value))
        ends = {name: [_plain(side[name]) for side in (below, above) if name in side] for name in self.bounds}
        told = ", ".join(f"{name} {' and '.join(values)}" for name, values in ends.items() if values)
        return f"the nearest beyond have {told}" if told else ""

    def _changes(self, arch: Arch, gene: int) -> list[Arch]:
        """``arch`` with each other open choice of one gene."""
        others = (choice for choice in self.space.allowed[gene] if choice != arch[gene])
        return [(*arch[:gene], choice, *arch[gene + 1 :]) for choice in others]

    def empty(self, rng: np.random.Generator, tries: int) -> UserError:
        """The error to raise if ``sample`` finds no member; it tells the costs of the nearest architecture."""
        if self.space.size <= ENUMERABLE:
            nearest = min(self.space.enumerate(), key=self.violation)
            tried = ""
        else:
            walks = [self._walk(rng, self.space.sample(rng))[0] for _ in range(20)]
            nearest = min(walks, key=self.violation)
            tried = f" found in {tries} draws and as many steps of walks towards it"
        window = " and ".join(_interval(name, *ends) for name, ends in self.bounds.items())
        values = ", ".join(f"{name} {_plain(cost(nearest))}" for name, cost in self.costs.items())
        return UserError(
            f"no architecture of space {self.space.name} with {window}{tried}; the nearest has {values}: "
            "widen the window"
        )

    def _walk(self, rng: np.random.Generator, arch: Arch) -> tuple[Arch, int]:
        """Change single genes until the violation is 0 or no change reduces it; also how many changes were tried.

        Genes come in random order, and each takes a random one of the choices that help: the best choice
        would lead all walks to the same corner. The caller gives up a walk that ends outside and starts another.
        """
        violation = self.violation(arch)
        tried = 0
        moved = True
        while violation > 0 and moved:
            moved = False
            for gene in rng.permutation(len(arch)):
                scored = [(self.violation(change), change) for change in self._changes(arch, gene)]
                tried += len(scored)
                better = [s for s in scored if s[0] == 0] or [s for s in scored if s[0] < violation]
                if better:
                    violation, arch = better[int(rng.integers(len(better)))]
                    moved = True
                if violation == 0:
                    break
        return arch, tried


def _plain(value: float) -> str:
    """As an option takes it."""
    return digits(value, 9, "f")


def _interval(name: str, low: float, high: float) -> str:
    """The bounds in words: ``latency <= 0.5``, ``latency in [0.4, 0.5]``."""
    if math.isinf(low):
        return f"{name} <= {_plain(high)}"
    return f"{name} >= {_plain(low)}" if math.isinf(high) else f"{name} in [{_plain(low)}, {_plain(high)}]"


def measure(name: str, cost: Cost, arch: Arch) -> float:
    """``cost(arch)`` as a finite float, else a UserError that names the cost and the architecture."""
    value = float(cost(arch))
    if not math.isfinite(value):
        raise UserError(f"{name} of the architecture {list(arch)} is {value}; expected a finite number")
    return value
