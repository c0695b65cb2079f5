"""The evolution of SPOS, and random search, with the interface, budget and log of CES. No torch.

Z. Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020, §3.4 and
Algorithm 1, with the values of its published code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from search.ask_tell import Budget, Search
from supernet.space import Arch


@dataclass(frozen=True)
class SPOSConfig(Budget):
    """Settings of the evolution; half of each population are mutants, half come from crossover."""

    population: int = 50
    iterations: int = 20
    top_k: int = 10  # the parents: the most accurate of all generations
    mutation: float = 0.1  # probability per gene

    algorithm: ClassVar[str] = "SPOS evolution"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect(
            top_k=(self.top_k >= 1, "at least 1"),
            mutation=(0 <= self.mutation <= 1, "a probability"),
        )


class SPOSEvolution(Search):
    """Evolution on accuracy alone, inside the window (Algorithm 1 of SPOS).

    The parents are the ``top_k`` most accurate architectures of all generations. Half of a population are
    their mutants: each gene is redrawn, uniformly, with probability ``mutation``. The other half are
    uniform crossovers of two of them. Arguments and errors are those of ``Search``; the objectives matter only to the
    log and the front.
    """

    settings = SPOSConfig
    config: SPOSConfig

    def _select(self, merged: list[Arch]) -> list[Arch]:
        best = np.argsort([-self._archive[arch].accuracy for arch in merged], kind="stable")
        return [merged[i] for i in best[: self.config.top_k]]

    def _breed(self, batch: dict[Arch, None]) -> None:
        self._collect(batch, self.config.population // 2, lambda: [self._mutant()])
        # The first n // 2 are mutants. Crossover makes the rest, including mutants that could not be found.
        self._collect(batch, self.config.population, lambda: [self._crossover()])

    def _parent(self) -> Arch:
        return self._population[int(self._rng.integers(len(self._population)))]

    def _mutant(self) -> Arch:
        redraw = self._rng.random(len(self.space.genes)) < self.config.mutation
        return tuple(np.where(redraw, self.space.sample(self._rng), self._parent()).tolist())

    def _crossover(self) -> Arch:
        from_first = self._rng.random(len(self.space.genes)) < 0.5
        return tuple(np.where(from_first, self._parent(), self._parent()).tolist())


@dataclass(frozen=True)
class RandomConfig(Budget):
    """Settings of random search."""

    algorithm: ClassVar[str] = "random search"


class RandomSearch(Search):
    """Random members of the window, none twice. Arguments and errors are those of ``Search``."""

    settings = RandomConfig

    def _select(self, merged: list[Arch]) -> list[Arch]:
        return []

    def _breed(self, batch: dict[Arch, None]) -> None:
        pass
