"""What PAD-NAS says of its search without a figure (§3.2): violators are discarded, and nine ranks are counted.

All on the supernet of ``experiments.evolution``, whose searches by CES are found again where they are in RUN.

- *Violators*. CES discards what crossover and mutation put outside of the window, and draws again. Here NSGA-II lets
  it in, with as many evaluations from the same first batch, which is within. It ranks violators by constrained
  domination (Deb 2002, §VI: those within go first, then the lesser violation), or like all others, and drops them at
  the end. Judged by the most accurate network within, and by the hypervolume of all within, over the worst of the
  first batch.
- *Ranks*. PAD-NAS counts the operations of all networks up to rank 9, as accuracies are noisy. By the ranks
  counted: do the operations that pruning keeps stay the same when the accuracies are drawn again, each by the standard
  deviation that its images give it, and in another search? Agreement is Cohen's κ over the operations, as
  more of them are kept where more networks are counted.

± is half of a 95 % interval over the searches: by Student's t, between pairs of searches by the jackknife.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from experiments import _common, _report, evolution
from experiments.papers.item import mean
from search import distribution, nsga2, pad_nas
from search.ask_tell import Record
from search.ces import CES, CESConfig
from search.costs import Cost, Window
from search.run import Scoring, SearchRun
from supernet import spaces
from supernet.executor import Threads
from supernet.progress import shown
from supernet.runs import RunFolder
from supernet.space import Arch, Space


@dataclass(frozen=True)
class Args(evolution.Searches):
    output: Path = Path("docs/results/pad_nas_search.json")
    """The results."""
    ranks: tuple[int, ...] = (1, 3, 5, 9, 15)
    """Nondomination ranks up to which networks are counted (the paper: 9)."""
    redraws: int = 100
    """Times that the accuracies of a search are drawn again."""


class LetIn(CES):
    """CES but for its window: crossover and mutation may leave it, the first batch is within."""

    def __init__(
        self, space: Space, costs: Mapping[str, Cost], bounds: Mapping[str, tuple[float, float]], *how: Any, **more: Any
    ) -> None:
        self.within = Window(space, costs, bounds)
        super().__init__(space, costs, {}, *how, **more)

    def _first(self) -> list[Arch]:
        return self.within.sample(self._rng, self.config.population, (), self.config.max_draws)


class Dominated(LetIn):
    """Constrained domination: a violator is worse than all within in every objective, by how far outside it is."""

    def _values(self, archs: Sequence[Arch] | Mapping[Arch, Record]) -> np.ndarray:
        values, beyond = super()._values(archs), np.array([self.within.violation(arch) for arch in archs])
        return np.where(beyond[:, None] > 0, values.max(axis=0) + 1 + beyond[:, None], values)


ARMS: dict[str, tuple[str, type[CES]]] = {
    "ces": ("discarded (CES)", CES),
    "dominated": ("let in, constrained domination", Dominated),
    "let-in": ("let in, dropped at the end", LetIn),
}


def run(args: Args) -> None:
    clock = _common.Clock(args.run, args.output.stem)
    if args.quick:
        args = dataclasses.replace(args, runs=3, population=6, iterations=3, epochs=1, redraws=5)
    data = evolution.images(args)
    space = spaces.get(args.space, data.channels, data.size, data.classes)
    unit, cost, bounds = evolution.problem(args, space)
    folder, model = evolution.supernet_of(args, space, data)
    scoring = Scoring(recalibration=(4, 128), executor=Threads(args.workers))
    evaluator, scored_with = scoring.evaluator(model, data), scoring.identity(RunFolder(folder).identity)
    window = Window(space, {unit: cost}, {unit: bounds})
    records: dict[str, list[list[Record]]] = {}
    for (name, (_, algorithm)), seed in itertools.product(ARMS.items(), range(args.runs)):
        config = CESConfig(args.population, args.iterations, seed=seed)
        search = algorithm(space, {unit: cost}, {unit: bounds}, [unit], config)
        SearchRun(folder / f"{name}-{seed}", search, evaluator, scored_with).run(progress=shown(not args.quiet))
        records.setdefault(name, []).append(search.records())
    threshold = pad_nas.usual_threshold(args.population * args.iterations)
    found = {
        "violators": {name: [judged(of, window, unit) for of in searches] for name, searches in records.items()},
        "threshold": threshold,
        "ranks": {
            str(rank): counted(space, records["ces"], unit, rank, threshold, len(data.val), args.redraws)
            for rank in args.ranks
        },
    }
    finish(args, _common.results("pad_nas_search", args, clock, **found))


def judged(records: Sequence[Record], window: Window, unit: str) -> dict[str, float]:
    """The outcome of a search, by what lies within the window."""
    inside = [record for record in records if record.arch in window]
    values = np.array([(-record.accuracy, record.costs[unit]) for record in inside])
    first = values[[record.generation == 0 for record in inside]]
    return {
        "best_accuracy": -float(values[:, 0].min()),
        "hypervolume": nsga2.hypervolume(values, first.max(axis=0)),
        "outside": 1 - len(inside) / len(records),
    }


def counted(
    space: Space,
    searches: Sequence[Sequence[Record]],
    unit: str,
    rank: int,
    threshold: float,
    images: int,
    redraws: int,
) -> dict[str, Any]:
    """What counting up to a rank keeps of the operations, and how far that is the same by chance and beyond.

    Returns:
        By search ``counted`` networks, ``kept`` operations, and κ with accuracies drawn again, ``redrawn``; the matrix
        of κ ``between`` searches, and the ``variance`` of the distribution between them.
    """
    rng, kept, again, shares, numbers = np.random.default_rng(0), [], [], [], []
    for records in searches:
        accuracy = np.array([record.accuracy for record in records])
        cost = np.array([record.costs[unit] for record in records])
        deviation = np.sqrt(accuracy * (1 - accuracy) / images)

        def good(accuracies: np.ndarray, records=records, cost=cost) -> list[Arch]:
            ranks = nsga2.fast_non_dominated_sort(np.column_stack((-accuracies, cost)))
            return [records[i].arch for i in np.flatnonzero(ranks <= rank)]

        archs = good(accuracy)
        p = distribution.estimate(space, archs)
        numbers.append(len(archs))
        shares.append([p[j][i] for j, open_ in enumerate(space.allowed) for i in open_])
        kept.append(keeps(space, archs, threshold))
        redrawn = [keeps(space, good(rng.normal(accuracy, deviation)), threshold) for _ in range(redraws)]
        again.append(float(np.mean([kappa(kept[-1], other) for other in redrawn])))
    return {
        "counted": numbers,
        "kept": [int(of.sum()) for of in kept],
        "redrawn": again,
        "between": [[kappa(a, b) for b in kept] for a in kept],
        "variance": float(np.var(shares, axis=0, ddof=1).mean()),
    }


def keeps(space: Space, archs: Sequence[Arch], threshold: float) -> np.ndarray:
    """Whether pruning keeps each open operation, where these networks are counted."""
    pruned = distribution.prune(space, distribution.estimate(space, archs), threshold)
    pairs = zip(space.allowed, pruned.allowed, strict=True)
    return np.array([i in kept for open_, kept in pairs for i in open_])


def kappa(a: np.ndarray, b: np.ndarray) -> float:
    """Cohen's κ of two vectors of yes and no: agreement beyond that of chance; 1 where chance would agree wholly."""
    agree, yes, no = float(np.mean(a == b)), a.mean() * b.mean(), (1 - a.mean()) * (1 - b.mean())
    return 1.0 if yes + no == 1 else float((agree - yes - no) / (1 - yes - no))


def jackknife(statistic: Callable[[list[int]], float], n: int) -> tuple[float, float]:
    """A statistic of n searches, and half of its 95 % interval; undefined for fewer than three."""
    every = list(range(n))
    if n < 3:
        return statistic(every), math.nan
    without = np.array([statistic([j for j in every if j != i]) for i in every])
    error = math.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    return statistic(every), float(stats.t.ppf(0.975, n - 1) * error)


def between(row: Mapping[str, Any], other: Mapping[str, Any] | None = None) -> str:
    """Mean κ over pairs of searches, or what it is more than that of ``other``."""
    matrix = np.array(row["between"]) - (0 if other is None else np.array(other["between"]))
    value, half = jackknife(
        lambda of: float(np.mean([matrix[i, j] for i, j in itertools.combinations(of, 2)])), len(matrix)
    )
    return f"{value:{'+' if other else ''}.2f} ± {half:.2f}".replace("-", "−")


def finish(args: Args, result: dict) -> None:
    """A table for each claim."""
    ces, ranks = result["violators"]["ces"], result["ranks"]
    first = next(iter(ranks.values()))
    violators = {
        ARMS[name][0]: {
            "evaluations outside, %": mean([row["outside"] for row in rows], 100, digits=1),
            "most accurate within, %": mean([row["best_accuracy"] for row in rows], 100),
            "CES minus it, points": mean(gains(ces, rows, "best_accuracy"), 100, "+"),
            "CES's hypervolume over its": mean(ratios(ces, rows)),
        }
        for name, rows in result["violators"].items()
    }
    tables = {
        f"Violators, {len(ces)} searches": violators,
        f"Networks counted up to a rank, P_th {result['threshold']:g}": {
            f"rank {rank}": {
                "networks": mean(row["counted"], digits=0),
                "operations kept": mean(row["kept"], digits=1),
                "κ, accuracies drawn again": mean(row["redrawn"]),
                "minus the first": mean(np.subtract(row["redrawn"], first["redrawn"]), sign="+"),
                "κ between searches": between(row),
                "minus the first, too": between(row, first),
                "variance of p": f"{row['variance']:.4f}",
            }
            for rank, row in ranks.items()
        },
    }
    _report.report(args.output, result, tables, draw)


def gains(ces: Sequence[Mapping[str, float]], rows: Sequence[Mapping[str, float]], what: str) -> list[float]:
    """CES minus another, by seed."""
    return [a[what] - b[what] for a, b in zip(ces, rows, strict=True)]


def ratios(ces: Sequence[Mapping[str, float]], rows: Sequence[Mapping[str, float]]) -> list[float]:
    """CES's hypervolume over another's, by seed."""
    return [a["hypervolume"] / b["hypervolume"] for a, b in zip(ces, rows, strict=True)]


def draw(figure: Figure, result: dict) -> None:
    """The most accurate network within of each search; κ over the ranks counted."""
    left, right = figure.subplots(1, 2)
    for i, rows in enumerate(result["violators"].values()):
        left.plot([i] * len(rows), [100 * row["best_accuracy"] for row in rows], "o", color=f"C{i}", alpha=0.7)
    left.set_xticks(range(len(ARMS)), [label.replace(", ", ",\n") for label, _ in ARMS.values()], fontsize=8)
    left.set(ylabel="most accurate within, one-shot (%)", title="violators; each point a search")
    ranks = [int(rank) for rank in result["ranks"]]
    rows = list(result["ranks"].values())
    right.plot(ranks, [np.mean(row["redrawn"]) for row in rows], "o-", label="accuracies drawn again")
    pairs = [np.array(row["between"])[np.triu_indices(len(row["between"]), 1)].mean() for row in rows]
    right.plot(ranks, pairs, "s-", label="between searches")
    right.set(xlabel="counted up to rank", ylabel="κ of the operations kept", title="ranks counted")
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.2)


if __name__ == "__main__":
    _common.main(run, Args, finish)
