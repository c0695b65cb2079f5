"""What all searches share: ask and tell, the archive, the log, and a state in plain JSON. No torch.

An algorithm adds how it selects and breeds: ``ces.py``, ``evolution.py``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from search import nsga2
from search.costs import Cost, Window, measure
from supernet.errors import UserError
from supernet.quantities import several
from supernet.space import Arch, Space

SCHEMA = 1


@dataclass(frozen=True)
class Budget:
    """Settings of every search, which scores at most ``evaluations`` architectures."""

    population: int = 64
    iterations: int = 40  # batches in total, including the random first one
    seed: int = 0
    max_draws: int = 2000  # failed draws for one new architecture before giving up

    algorithm: ClassVar[str] = "search"

    def __post_init__(self) -> None:
        self._expect(population=(self.population >= 2, "at least 2"))
        self._expect(iterations=(self.iterations >= 1, "at least 1"))
        self._expect(seed=(self.seed >= 0, "0 or more"))
        self._expect(max_draws=(self.max_draws >= 1, "at least 1"))

    def size(self, generation: int) -> int:
        """Architectures of a generation."""
        return self.population

    @property
    def evaluations(self) -> int:
        """Architectures of all generations."""
        return sum(map(self.size, range(self.iterations)))

    def _expect(self, **fields: tuple[bool, str]) -> None:
        for name, (fine, expected) in fields.items():
            if not fine:
                raise UserError(f"{self.algorithm}: {name} is {getattr(self, name)}; expected {expected}")


@dataclass(frozen=True)
class Record:
    """One scored architecture."""

    arch: Arch
    accuracy: float  # as told
    costs: dict[str, float]
    generation: int  # 0 is the random first batch
    rank: int  # nondomination rank among everything scored so far; the Pareto front is 1


class Search:
    """Search for high accuracy at low cost, by ``ask`` and ``tell``.

    Only architectures within the bounds are asked for, none of them twice. Every scored one stays in the
    archive, which ``front`` ranks as a whole. If an algorithm breeds too few, random members of the window
    complete the batch. If these run out too, batches shrink, and the search ends when one would be empty;
    ``notes`` says so.

    Args:
        space: the open architectures.
        costs: every cost to be recorded, by name.
        bounds: (lowest, highest), both included, by the name of a cost.
        objectives: names of the costs to minimise; the accuracy is maximised. Every algorithm logs the front in
            them, even if it selects by accuracy alone.
        config: by default ``settings()``.

    Raises:
        UserError: names that do not match, or no architecture within the bounds; it tells the nearest.
    """

    settings: ClassVar[type[Budget]] = Budget

    def __init__(
        self,
        space: Space,
        costs: Mapping[str, Cost],
        bounds: Mapping[str, tuple[float, float]],
        objectives: Sequence[str],
        config: Budget | None = None,
    ) -> None:
        config = config or self.settings()
        missing = [name for name in objectives if name not in costs]
        if missing or not objectives or len(set(objectives)) < len(objectives):
            raise UserError(
                f"{config.algorithm}: the objectives are {', '.join(objectives) or 'none'}; expected one or more "
                f"different names of the costs {', '.join(costs) or '(none given)'}"
            )
        self.space = space
        self.costs = dict(costs)
        self.objectives = tuple(objectives)
        self.config = config
        self.window = Window(space, costs, bounds)
        self.generation = 0  # of the batch that ask() returns
        self.history: list[dict] = []  # one entry per generation told, see tell()
        self.notes: list[str] = []  # what people should know, one line each
        self._rng = np.random.default_rng(config.seed)
        self._archive: dict[Arch, Record] = {}  # in the order told; its ranks are not kept up to date
        self._population: list[Arch] = []
        self._batch = self._first()
        self._random = len(self._batch)  # how many of the batch are random draws, not offspring
        if not self._batch:
            raise self.window.empty(self._rng, config.max_draws)
        if len(self._batch) < config.population:
            nearest = self.window.beyond(self._batch)
            found = f"found {several(len(self._batch), 'architecture')} within the bounds, not {config.population}"
            self._note(f"{found}; {nearest}" if nearest else found)

    @property
    def done(self) -> bool:
        """Whether ``ask`` has nothing left: all iterations are told, or no new architecture is found."""
        return not self._batch

    def ask(self) -> list[Arch]:
        """The architectures to score now: new, distinct, within the bounds; the same until they are told."""
        return list(self._batch)

    def tell(self, archs: Sequence[Arch], accuracies: Sequence[float]) -> None:
        """Take the accuracies (larger is better, in any unit) of the asked architectures, in any order.

        Appends to ``history``: generation, evaluated (in total), random (in this batch, not bred),
        best_accuracy, front (size of the Pareto front of everything scored) and its hypervolume; the
        reference point is the worst of generation 0 in each objective.

        Raises:
            ValueError: other architectures than asked for.
            UserError: an accuracy that is not finite. In both cases nothing is changed.
        """
        told = dict(zip(map(tuple, archs), map(float, accuracies), strict=True))
        if self.done or set(told) != set(self._batch) or len(archs) != len(told):
            raise ValueError(f"tell() expects the {len(self._batch)} architectures that ask() returned, each once")
        for arch, accuracy in told.items():
            if not math.isfinite(accuracy):
                raise UserError(f"the accuracy of the architecture {list(arch)} is {accuracy}; expected a number")
        records = [self._record(arch, told[arch]) for arch in self._batch]
        self._archive |= {record.arch: record for record in records}

        # Those not selected stay in the archive.
        merged = self._population + self._batch
        self._population = self._select(merged)
        self.history.append(self._progress())

        self.generation += 1
        self._batch = self._next_batch() if self.generation < self.config.iterations else []

    def records(self) -> list[Record]:
        """Everything scored, in the order told, ranked as a whole."""
        if not self._archive:
            return []
        ranks = nsga2.fast_non_dominated_sort(self._values(self._archive))
        pairs = zip(self._archive.values(), ranks, strict=True)
        return [dataclasses.replace(record, rank=int(rank)) for record, rank in pairs]

    def front(self, max_rank: int = 1) -> list[Record]:
        """The records up to ``max_rank``, cheapest first: 1 is the Pareto front; PAD-NAS prunes by ranks up to 9."""
        chosen = [record for record in self.records() if record.rank <= max_rank]
        return sorted(chosen, key=lambda r: (*(r.costs[name] for name in self.objectives), -r.accuracy, r.arch))

    def state_dict(self) -> dict:
        """Plain JSON: all that a search with the same arguments needs to continue as if it had never stopped."""
        return {
            "schema": SCHEMA,
            "space": self.space.fingerprint,
            "setup": self._setup(),
            "generation": self.generation,
            "archive": [[list(r.arch), r.accuracy, dict(r.costs), r.generation] for r in self._archive.values()],
            "population": [list(arch) for arch in self._population],
            "batch": [list(arch) for arch in self._batch],
            "random": self._random,
            "history": [dict(entry) for entry in self.history],
            "notes": list(self.notes),
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue from ``state_dict``.

        Raises:
            UserError: the state has another space, other settings or other costs (the first difference is
                named), or is damaged. Nothing is changed then.
        """
        if not isinstance(state, dict) or state.get("schema") != SCHEMA:
            raise UserError(f"the search state is not one of schema {SCHEMA}; delete it to start again")
        try:
            self.space.require(state["space"], "the search state")
            for name, here in self._setup().items():
                there = state["setup"].get(name)
                if there != here:
                    raise UserError(
                        f"the search state was made with {name} = {there}, this search has {here}; "
                        "use the same arguments, or delete the state to start again"
                    )
            archive = {}
            for genes, accuracy, costs, generation in state["archive"]:
                arch = self.space.check(genes)
                archive[arch] = Record(arch, float(accuracy), self._same_costs(arch, costs), int(generation), 0)
            population = [self.space.check(arch) for arch in state["population"]]
            batch = [self.space.check(arch) for arch in state["batch"]]
            if not archive.keys() >= set(population):
                raise UserError("the search state has a population that was never scored; delete it to start again")
            generation, random = int(state["generation"]), int(state["random"])
            history = [dict(entry) for entry in state["history"]]
            notes = [str(note) for note in state["notes"]]
            rng = np.random.default_rng()
            rng.bit_generator.state = state["rng"]
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise UserError(f"the search state is damaged ({error!r}); delete it to start again") from error
        self._archive, self._population, self._batch, self._rng = archive, population, batch, rng
        self.generation, self._random, self.history, self.notes = generation, random, history, notes

    def _first(self) -> list[Arch]:
        """The first batch: random members of the window."""
        return self.window.sample(self._rng, self.config.population, (), self.config.max_draws)

    def _select(self, merged: list[Arch]) -> list[Arch]:
        """The next population, from the old one and the batch just told."""
        raise NotImplementedError

    def _breed(self, batch: dict[Arch, None]) -> None:
        """Add offspring of the population to ``batch``, in order."""
        raise NotImplementedError

    def _collect(self, batch: dict[Arch, None], size: int, offspring: Callable[[], Sequence[Arch]]) -> None:
        """Draw offspring until ``batch`` has ``size`` new members of the window, or ``max_draws`` draws fail."""
        failed = 0
        while len(batch) < size and failed < self.config.max_draws:
            for child in offspring():
                failed += 1
                new = child not in self._archive and child not in batch
                if new and child in self.window and len(batch) < size:
                    batch[child] = None
                    failed = 0

    def _next_batch(self) -> list[Arch]:
        """Offspring and, if these are too few, random members of the window."""
        config, size = self.config, self.config.size(self.generation)
        batch: dict[Arch, None] = {}
        self._breed(batch)
        bred = len(batch)
        if bred < size:
            known = self._archive.keys() | batch.keys()
            batch |= dict.fromkeys(self.window.sample(self._rng, size - bred, known, config.max_draws))
        self._random = len(batch) - bred
        if not batch:
            ends = f"found no new architecture within the bounds after {len(self._archive)}, so the search ends"
            nearest = self.window.beyond(self._archive)
            self._note(f"{ends}; {nearest}" if nearest else ends)
        elif len(batch) < size:
            self._note(f"found {several(len(batch), 'new architecture')} within the bounds, not {size}")
        return list(batch)

    def _values(self, archs: Sequence[Arch] | Mapping[Arch, Record]) -> np.ndarray:
        """Objective values [n, 1 + costs] of scored architectures, all to be minimised."""
        records = [self._archive[arch] for arch in archs]
        return np.array([[-r.accuracy, *(r.costs[name] for name in self.objectives)] for r in records])

    def _record(self, arch: Arch, accuracy: float) -> Record:
        costs = {name: measure(name, cost, arch) for name, cost in self.costs.items()}
        return Record(arch, accuracy, costs, self.generation, rank=0)

    def _progress(self) -> dict:
        values = self._values(self._archive)
        first = [r.generation == 0 for r in self._archive.values()]
        front = values[nsga2.fast_non_dominated_sort(values) == 1]
        return {
            "generation": self.generation,
            "evaluated": len(values),
            "random": self._random,
            "best_accuracy": float(-values[:, 0].min()),
            "front": len(front),
            "hypervolume": nsga2.hypervolume(front, values[first].max(axis=0)),
        }

    def _setup(self) -> dict:
        """Every argument that shapes the search, in plain JSON, which has no infinity."""
        finite = {name: [x if math.isfinite(x) else None for x in ends] for name, ends in self.window.bounds.items()}
        return {
            "algorithm": self.config.algorithm,
            **dataclasses.asdict(self.config),
            "allowed": [list(open_) for open_ in self.space.allowed],
            "costs": sorted(self.costs),
            "bounds": finite,
            "objectives": list(self.objectives),
        }

    def _same_costs(self, arch: Arch, costs: Mapping[str, float]) -> dict[str, float]:
        """The recorded costs, checked against the cost functions: with another table two devices would be mixed."""
        for name, cost in self.costs.items():
            here = measure(name, cost, arch)
            if not math.isclose(costs[name], here, rel_tol=1e-9, abs_tol=1e-12):
                raise UserError(
                    f"the search state has {name} {costs[name]:.6g} for the architecture {list(arch)}, but "
                    f"the table here gives {here:.6g}; use the old table, or delete the state to start again"
                )
        return {name: float(costs[name]) for name in self.costs}

    def _note(self, text: str) -> None:
        self.notes.append(f"generation {self.generation}: {text}")
