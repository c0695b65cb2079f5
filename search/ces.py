"""Constrained Evolutionary Search (CES) of PAD-NAS: NSGA-II inside a window of costs. No torch.

X. Xia et al., "Progressive Automatic Design of Search Space for One-Shot Neural Architecture Search", §3
"Constrained Evolutionary Search" and §4 (population 64, 40 iterations, two-point crossover, polynomial
mutation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from search import nsga2
from search.ask_tell import Budget, Search
from supernet.space import Arch


@dataclass(frozen=True)
class CESConfig(Budget):
    """Settings of a search."""

    eta: float = 3.0  # of polynomial mutation: larger means smaller steps; the paper gives no value
    mutation: float | None = None  # probability per gene; None is 1 / genes
    crossover: float = 0.9  # probability per pair of parents; the paper gives no value

    algorithm: ClassVar[str] = "CES"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect(
            eta=(0 <= self.eta < math.inf, "a finite number, 0 or more"),
            mutation=(self.mutation is None or 0 <= self.mutation <= 1, "a probability"),
            crossover=(0 <= self.crossover <= 1, "a probability"),
        )


class CES(Search):
    """NSGA-II on accuracy and costs, inside the window.

    "We discard the architectures that violate the constraint in the crossover and mutation" (§3): parents
    come from crowded binary tournaments; a child of two-point crossover outside the bounds is discarded and
    drawn again, and so is a mutant. The population is the best of parents and offspring by nondomination
    rank, then crowding. Arguments and errors are those of ``Search``.

    >>> from search.costs import AdditiveCost
    >>> from supernet.space import Choice, Gene, Space
    >>> choices = tuple(Choice("ib", 3, expand) for expand in (1, 3, 6))
    >>> genes = tuple(Gene(f"layer{i}", choices, 8, 8, 1) for i in range(8))
    >>> space = Space("tiny", 3, 8, 10, 8, 1, 16, "relu6", genes, ((0, 1, 2),) * 8)
    >>> latency = AdditiveCost([[0.1, 0.2, 0.4]] * 8, base=1.0)
    >>> ces = CES(space, {"latency": latency}, {"latency": (2.0, 3.0)}, ["latency"], CESConfig(8, 5))
    >>> while not ces.done:
    ...     archs = ces.ask()
    ...     ces.tell(archs, [sum(arch) / 16 for arch in archs])
    >>> len(ces.records()), all(2 <= record.costs["latency"] <= 3 for record in ces.front())
    (40, True)
    """

    settings = CESConfig
    config: CESConfig

    def _select(self, merged: list[Arch]) -> list[Arch]:
        return [merged[i] for i in nsga2.survival(self._values(merged), self.config.population)]

    def _breed(self, batch: dict[Arch, None]) -> None:
        config, rng = self.config, self._rng
        ranks, crowding = nsga2.rank_and_crowding(self._values(self._population))

        def offspring() -> list[Arch]:
            a, b = (self._population[i] for i in nsga2.tournament(ranks, crowding, 2, rng))
            if rng.random() < config.crossover:
                a, b = nsga2.two_point_crossover(a, b, rng)
            return [self._mutant(child) if child in self.window else child for child in (a, b)]

        self._collect(batch, config.size(self.generation), offspring)

    def _mutant(self, child: Arch) -> Arch:
        config = self.config
        return nsga2.polynomial_mutation(child, self.space.allowed, self._rng, config.eta, config.mutation)
