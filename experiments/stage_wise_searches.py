"""Searches of Stage-Wise NAS as the paper lists them: criteria, iterations, the initial depth, and noise that is known.

Tables I and II, Figure 4, and what more iterations add. Of every search the candidate of each iteration is judged as
the search leaves it, on images that nothing else sees.

- *Criteria* (Table II, Figure 4): searches by PLS-VIP, inf-FS and il-FS from the same initial network and seeds.
- *More iterations* (§IV: beyond five they add little): the search by PLS-VIP goes on; the last candidate against that
  of the last iteration of the others, in pairs of seeds.
- *Initial depth* (Table I): one iteration by PLS-VIP from other depths m_0.
- *Known noise* (ours): growth decided by pairs of seeds and a sequential test (``search.sequential``) instead of one
  pair. Against the paper's rule: the depth of what it finds, its accuracy, and whether seeds agree on the stages.

Every finished training is kept in RUN, every finished search in OUTPUT: the same command continues.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from experiments import _common, _report, _stages
from experiments._stages import Arm, at_iteration
from experiments.papers.item import mean
from search.criteria import CRITERIA

SIZE = (13.0, 4.0)
NAMES = {"pls": "PLS-VIP", "inf-fs": "inf-FS", "il-fs": "il-FS"}


@dataclass(frozen=True)
class Args(_stages.OnStages):
    output: Path = Path("docs/results/stage_wise_searches.json")
    """The results; tables (.md) and a picture (.png) beside them."""
    iterations: int | None = 5
    """Iterations of Algorithm 1."""
    more_iterations: int = 7
    """Iterations of the searches by PLS-VIP, of which the others' number are compared with the other criteria."""
    initials: tuple[int, ...] = (1, 2, 3, 4)
    """Initial depths of searches of one iteration (the paper: 2 4 6 8 10)."""
    pairs: int = 5
    """Most pairs of seeds where the noise is known; 1 leaves that out."""


def run(args: Args) -> None:
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)])  # the first one imports torch._dynamo: seconds that no network should be charged
    clock = _common.Clock(args.run, args.output.stem)
    if args.quick:
        tiny = {"seeds": 2, "iterations": 2, "more_iterations": 3, "initials": (1, 2), "pairs": 2, "initial": 1}
        args = dataclasses.replace(args, **tiny, width=4, epochs=1, train=200, batch_size=32)
    study = _stages.Stages(args, args.data)
    for arm in arms(args).values():  # what cannot be is refused before anything is trained
        study.plan(arm)
    kept = _common.Kept(args.output, _common.results("stage_wise_searches", args, clock), clock)
    for seed, (name, arm) in itertools.product(range(args.seeds), arms(args).items()):
        kept.add("searches", name, seed, lambda arm=arm, seed=seed: told(study.search(arm, seed)))
    finish(args, kept.found)


def arms(args: Args) -> dict[str, Arm]:
    """The searches by their names in the results."""
    found = {name: Arm(criterion=name) for name in CRITERIA}
    found["pls"] = Arm(iterations=max(args.more_iterations, args.given(Arm()).iterations))
    found |= {f"m0 = {m}": Arm(initial=m, iterations=1) for m in args.initials}
    return found | ({"known noise": Arm(pairs=args.pairs)} if args.pairs > 1 else {})


def told(search: Mapping[str, Any]) -> dict[str, Any]:
    """What the results keep of a search: not where its networks lie."""
    rows = [{name: value for name, value in row.items() if name != "path"} for row in search["candidates"]]
    return {**search, "candidates": rows}


def iterations(result: Mapping[str, Any]) -> int:
    """n of the searches by other criteria."""
    return result["settings"]["iterations"]


def last(row: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """The candidate of the n-th iteration."""
    return at_iteration(row, iterations(result))


def more(result: Mapping[str, Any]) -> list[float]:
    """Accuracy of the last of all iterations minus that of the n-th, by seed."""
    rows = result["searches"]["pls"]
    return [row["candidates"][-1]["accuracy"] - last(row, result)["accuracy"] for row in rows]


def disagreement(rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> float:
    """Modules by which a stage differs between two seeds, on average."""
    found = [last(row, result)["modules"] for row in rows]
    return float(np.mean([np.abs(np.subtract(a, b)).mean() for a, b in itertools.combinations(found, 2)] or [0.0]))


def finish(args: Args, result: dict) -> None:
    _report.report(args.output, result, tables(result), draw, SIZE)


def tables(result: Mapping[str, Any]) -> _report.Tables:
    """± is half of the 95 % interval over the seeds, by Student's t."""
    searches, n = result["searches"], iterations(result)
    candidates = {
        NAMES[name]: {
            f"iteration {k}": mean([at_iteration(row, k)["accuracy"] for row in searches[name]], 100)
            for k in range(1, n + 1)
        }
        for name in CRITERIA
    }
    modules = {NAMES[name]: stages(searches[name], result) for name in CRITERIA}
    further = {"PLS-VIP": {"last iteration of the others": of_last(searches["pls"], result)}}
    further["PLS-VIP"] |= {
        f"after {result['settings']['more_iterations']}": mean(
            [row["candidates"][-1]["accuracy"] for row in searches["pls"]], 100
        ),
        "difference, points": mean(more(result), 100, "+"),
    }
    initial = {name: costs(rows) for name, rows in searches.items() if name.startswith("m0 = ")}
    found: dict[str, Any] = {
        "Candidates as the searches leave them, % of unseen images (Table II)": candidates,
        f"Modules of each stage after {n} iterations (Figure 4)": modules,
        "More iterations": further,
        "The first candidate by the initial depth (Table I)": initial,
    }
    if "known noise" in searches:
        found["Growth by one pair, the paper's rule, and by pairs until a sequential test has decided"] = {
            label: {
                **stages(searches[name], result),
                "a stage differs between seeds by": f"{disagreement(searches[name], result):.2f}",
                "networks trained": mean([row["networks"] for row in searches[name]], digits=1),
                "accuracy, %": of_last(searches[name], result),
            }
            for label, name in (("one pair", "pls"), (f"up to {result['settings']['pairs']}", "known noise"))
        }
    return found


def of_last(rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> str:
    """Accuracy of the n-th candidates."""
    return mean([last(row, result)["accuracy"] for row in rows], 100)


def stages(rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> dict[str, str]:
    """Modules of each stage of the n-th candidates."""
    found = np.array([last(row, result)["modules"] for row in rows])
    return {f"stage {i}": mean(column, digits=1) for i, column in enumerate(found.T, start=1)}


def costs(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Depth, counts, memory and accuracy of the first candidates."""
    of = [row["candidates"][-1] for row in rows]
    return {
        "depth": mean([c["depth"] for c in of], digits=0),
        "k parameters": mean([c["params"] for c in of], 1e-3, digits=1),
        "M multiply-adds": mean([c["flops"] for c in of], 1e-6),
        "memory, MiB": mean([c["memory"] for c in of]),
        "accuracy, %": mean([c["accuracy"] for c in of], 100),
    }


def draw(figure: Figure, result: Mapping[str, Any]) -> None:
    """Modules by criterion; accuracy by iteration; accuracy over multiply-adds by initial depth."""
    searches, n = result["searches"], iterations(result)
    left, middle, right = figure.subplots(1, 3)
    arms = [*CRITERIA, *(["known noise"] if "known noise" in searches else [])]
    for i, name in enumerate(arms):
        label, found = NAMES.get(name, "PLS-VIP, pairs"), [last(row, result)["modules"] for row in searches[name]]
        at = np.arange(len(found[0])) + 0.8 * (i - (len(arms) - 1) / 2) / len(arms)
        spread = np.std(found, axis=0, ddof=1) if len(found) > 1 else None
        left.bar(at, np.mean(found, axis=0), 0.75 / len(arms), yerr=spread, color=f"C{i}", label=label)
        longest = max(row["candidates"][-1]["iteration"] for row in searches[name])
        reached = range(0, max(longest, n) + 1)
        accuracy = [[100 * at_iteration(row, k)["accuracy"] for row in searches[name]] for k in reached]
        middle.plot(reached, np.mean(accuracy, axis=1), "o-", color=f"C{i}", label=label, markersize=3)
    left.set_xticks(range(len(found[0])), [f"stage {i + 1}" for i in range(len(found[0]))])
    left.set(ylabel="modules", title=f"after {n} iterations, SD of the seeds")
    middle.set(xlabel="iteration", ylabel="accuracy (%)", title="candidates as the search leaves them")
    initial = {name: rows for name, rows in searches.items() if name.startswith("m0 = ")}
    for i, (name, rows) in enumerate(initial.items()):
        of = [row["candidates"][-1] for row in rows]
        right.scatter(
            [c["flops"] / 1e6 for c in of], [100 * c["accuracy"] for c in of], color=f"C{i}", s=15, label=name
        )
    right.set(xlabel="M multiply-adds", ylabel="accuracy (%)", title="first candidate by initial depth")
    for axes in (left, middle, right):
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.2)
    for axes in (middle, right):  # the bars have the colours of the lines
        axes.legend(fontsize=7)


if __name__ == "__main__":
    _common.main(run, Args, finish)
