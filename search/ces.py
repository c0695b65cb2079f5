"""Constrained Evolutionary Search (CES) of PAD-NAS: NSGA-II inside a window of costs. No torch.

X. Xia et al., "Progressive Automatic Design of Search Space for One-Shot Neural Architecture Search", §3
"Constrained Evolutionary Search" and §4 (population 64, 40 iterations, two-point crossover, polynomial
mutation).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from search import nsga2
from search.costs import Cost, Window, measure
from supernet.errors import UserError
from supernet.space import Arch, Space

SCHEMA = 1


@dataclass(frozen=True)
class CESConfig:
    """Settings of a search. It scores at most ``population * iterations`` architectures."""

    population: int = 64
    iterations: int = 40  # batches in all, the random first one included
    eta: float = 3.0  # of polynomial mutation: larger means smaller steps; the paper gives no value
    mutation: float | None = None  # probability per gene; None is 1 / genes
    crossover: float = 0.9  # probability per pair of parents; the paper gives no value
    seed: int = 0
    max_draws: int = 2000  # draws in vain for one new architecture, after which a source is given up

    def __post_init__(self) -> None:
        for name, fine, expected in (
            ("population", self.population >= 2, "at least 2"),
            ("iterations", self.iterations >= 1, "at least 1"),
            ("eta", 0 <= self.eta < math.inf, "a finite number, 0 or more"),
            ("mutation", self.mutation is None or 0 <= self.mutation <= 1, "a probability"),
            ("crossover", 0 <= self.crossover <= 1, "a probability"),
            ("seed", self.seed >= 0, "0 or more"),
            ("max_draws", self.max_draws >= 1, "at least 1"),
        ):
            if not fine:
                raise UserError(f"CES: {name} is {getattr(self, name)}; expected {expected}")


@dataclass(frozen=True)
class Record:
    """One scored architecture."""

    arch: Arch
    accuracy: float  # as told
    costs: dict[str, float]
    generation: int  # 0 is the random first batch
    rank: int  # nondomination rank among everything scored so far; the Pareto front is 1


class CES:
    """Search for high accuracy at low cost, by ``ask`` and ``tell``.

    "We discard the architectures that violate the constraint in the crossover and mutation" (§3): parents
    come from crowded binary tournaments; a child of two-point crossover outside the bounds is discarded and
    drawn again, and so is a mutant. The population is the best of parents and offspring by nondomination
    rank, then crowding. Every scored architecture stays in the archive, which ``front`` ranks as a whole,
    and is never asked for again.

    Where crossover and mutation find nothing new (a small space, a population that has converged), random
    members of the window complete the batch. Where these run out too, batches shrink, and the search ends
    when one would be empty; ``notes`` says so.

    Args:
        space: the open architectures.
        costs: every cost to be recorded, by name.
        bounds: (lowest, highest), both included, by the name of a cost.
        objectives: names of the costs that are minimised beside the accuracy, which is maximised.
        config: settings.

    Raises:
        UserError: names that do not match, or bounds in which no architecture is found (gives the nearest).

    >>> from search.costs import AdditiveCost
    >>> from supernet.space import Choice, Gene
    >>> gene = Gene("layer", (Choice("ib", 3, 1), Choice("ib", 3, 3), Choice("ib", 3, 6)), 8, 8, 1)
    >>> space = Space("tiny", 3, 8, 10, 8, 1, 16, "relu6", (gene,) * 8, ((0, 1, 2),) * 8)
    >>> latency = AdditiveCost([[0.1, 0.2, 0.4]] * 8, base=1.0)
    >>> ces = CES(space, {"latency": latency}, {"latency": (2.0, 3.0)}, ["latency"], CESConfig(8, 5))
    >>> while not ces.done:
    ...     archs = ces.ask()
    ...     ces.tell(archs, [sum(arch) / 16 for arch in archs])
    >>> len(ces.records()), all(2 <= record.costs["latency"] <= 3 for record in ces.front())
    (40, True)
    """

    def __init__(
        self,
        space: Space,
        costs: Mapping[str, Cost],
        bounds: Mapping[str, tuple[float, float]],
        objectives: Sequence[str],
        config: CESConfig = CESConfig(),
    ) -> None:
        missing = [name for name in objectives if name not in costs]
        if missing or not objectives or len(set(objectives)) < len(objectives):
            raise UserError(
                f"CES: the objectives are {', '.join(objectives) or 'none'}; expected one or more "
                f"different names of the costs {', '.join(costs) or '(none given)'}"
            )
        self.space = space
        self.costs = dict(costs)
        self.objectives = tuple(objectives)
        self.config = config
        self.window = Window(space, costs, bounds)
        self.generation = 0  # of the batch that ask() returns
        self.history: list[dict] = []  # one entry per generation told, see tell()
        self.notes: list[str] = []  # what a person should know, one line each
        self._rng = np.random.default_rng(config.seed)
        self._archive: dict[Arch, Record] = {}  # in the order told; its ranks are not kept up to date
        self._population: list[Arch] = []
        self._batch = self.window.sample(self._rng, config.population, (), config.max_draws)
        self._random = len(self._batch)  # how many of the batch are random draws, not offspring
        if not self._batch:
            raise self.window.empty(self._rng, config.max_draws)
        if len(self._batch) < config.population:
            self._note(f"found {len(self._batch)} architectures within the bounds, not {config.population}")

    @property
    def done(self) -> bool:
        """Whether ``ask`` has nothing left: all iterations are told, or no new architecture is found."""
        return not self._batch

    def ask(self) -> list[Arch]:
        """The architectures to score now: new, distinct, within the bounds. The same until they are told."""
        return list(self._batch)

    def tell(self, archs: Sequence[Arch], accuracies: Sequence[float]) -> None:
        """Take the accuracies (larger is better, any unit) of the asked architectures, in any order.

        Appends to ``history``: generation, evaluated (in all), random (of this batch, not bred),
        best_accuracy, front (members of rank 1 in the population), and hypervolume (of everything scored,
        where there is one cost among the objectives, else None; the reference point is the worst of
        generation 0 in each objective).

        Raises:
            ValueError: other architectures than asked for.
            UserError: an accuracy that is not finite. Nothing is changed then.
        """
        told = dict(zip(map(tuple, archs), map(float, accuracies), strict=True))
        if self.done or set(told) != set(self._batch) or len(archs) != len(told):
            raise ValueError(f"tell() expects the {len(self._batch)} architectures that ask() returned, each once")
        for arch, accuracy in told.items():
            if not math.isfinite(accuracy):
                raise UserError(f"the accuracy of the architecture {list(arch)} is {accuracy}; expected a number")
        records = [self._record(arch, told[arch]) for arch in self._batch]
        self._archive |= {record.arch: record for record in records}

        # Survival over parents and offspring; who does not survive stays in the archive.
        merged = self._population + self._batch
        self._population = [merged[i] for i in nsga2.survival(self._values(merged), self.config.population)]
        self.history.append(self._progress())

        self.generation += 1
        self._batch = self._breed() if self.generation < self.config.iterations else []

    def records(self) -> list[Record]:
        """Everything scored, in the order told, ranked as a whole."""
        if not self._archive:
            return []
        ranks = nsga2.fast_non_dominated_sort(self._values(self._archive))
        pairs = zip(self._archive.values(), ranks, strict=True)
        return [dataclasses.replace(record, rank=int(rank)) for record, rank in pairs]

    def front(self, max_rank: int = 1) -> list[Record]:
        """The records up to ``max_rank``, cheapest first: 1 is the Pareto front, 9 what PAD-NAS prunes by."""
        chosen = [record for record in self.records() if record.rank <= max_rank]
        return sorted(chosen, key=lambda r: (*(r.costs[name] for name in self.objectives), -r.accuracy, r.arch))

    def state_dict(self) -> dict:
        """Plain JSON: all that a search of the same arguments needs to go on as if it had never stopped."""
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
        """Go on from ``state_dict``.

        Raises:
            UserError: the state is of another space, other settings or other costs (the first difference is
                named), or not one at all. Nothing is changed then.
        """
        if not isinstance(state, dict) or state.get("schema") != SCHEMA:
            raise UserError(f"the search state is not one of CES, schema {SCHEMA}; delete it to start again")
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

    def _breed(self) -> list[Arch]:
        """The next batch: offspring and, where these are too few, random members of the window."""
        config, rng = self.config, self._rng
        ranks, crowding = nsga2.rank_and_crowding(self._values(self._population))
        batch: dict[Arch, None] = {}
        in_vain = 0
        while len(batch) < config.population and in_vain < config.max_draws:
            a, b = (self._population[i] for i in nsga2.tournament(ranks, crowding, 2, rng))
            if rng.random() < config.crossover:
                a, b = nsga2.two_point_crossover(a, b, rng)
            for child in (a, b):
                in_vain += 1
                if child not in self.window:
                    continue
                child = nsga2.polynomial_mutation(child, self.space.allowed, rng, config.eta, config.mutation)
                new = child not in self._archive and child not in batch
                if new and child in self.window and len(batch) < config.population:
                    batch[child] = None
                    in_vain = 0
        bred = len(batch)
        if bred < config.population:
            known = self._archive.keys() | batch.keys()
            batch |= dict.fromkeys(self.window.sample(rng, config.population - bred, known, config.max_draws))
        self._random = len(batch) - bred
        if not batch:
            self._note(f"found no new architecture within the bounds after {len(self._archive)}, so the search ends")
        elif len(batch) < config.population:
            self._note(f"found {len(batch)} new architectures within the bounds, not {config.population}")
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
        area = None
        if len(self.objectives) == 1:
            first = [r.generation == 0 for r in self._archive.values()]
            area = nsga2.hypervolume(values, values[first].max(axis=0))
        return {
            "generation": self.generation,
            "evaluated": len(values),
            "random": self._random,
            "best_accuracy": float(-values[:, 0].min()),
            "front": int((nsga2.fast_non_dominated_sort(self._values(self._population)) == 1).sum()),
            "hypervolume": area,
        }

    def _setup(self) -> dict:
        """Every argument that shapes the search, in plain JSON, which has no infinity."""
        finite = {name: [x if math.isfinite(x) else None for x in ends] for name, ends in self.window.bounds.items()}
        return {
            **dataclasses.asdict(self.config),
            "allowed": [list(open_) for open_ in self.space.allowed],
            "costs": sorted(self.costs),
            "bounds": finite,
            "objectives": list(self.objectives),
        }

    def _same_costs(self, arch: Arch, costs: Mapping[str, float]) -> dict[str, float]:
        """Check the recorded costs against the cost functions: a new latency table would mix two devices."""
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
