"""Efficient Global NAS: what the macro search starts with (Table 2), and searches without operations (§4.1).

Starts are compared on pairs of classes, each a small data set of its own; searches with and without operations on all
classes, by seeds. Hypotheses, written down before the run: separable 3×3 layers end in fewer parameters than the other
starts and are no less accurate; searching operations gains accuracy. The paper does not say what the micro search tries
where layers start as plain convolutions or 7×7: here the other operation, then 5×5. Every finished training is kept in
RUN: the same command continues. Found networks are tested once each.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments import _common, _plain, _report
from experiments._plain import Job, Search, Subset
from search.efficient_global import CONV, SEP, Config
from supernet.errors import UserError
from supernet.runs import RunFolder
from supernet.training import defaults

STARTS = {
    "Conv 3×3": (CONV, 3),
    "Conv 7×7": (CONV, 7),
    "Sep 3×3": (SEP, 3),
    "Sep 7×7": (SEP, 7),
}


@dataclass(frozen=True)
class Args(_plain.Options):
    run: Path = Path("runs/experiment-global-nas-ablation")
    """Folder of the trainings."""
    output: Path = Path("docs/results/global_nas_ablation.json")
    """Results."""
    limit: int = 1500
    """Training images of the searches with and without operations, stratified; 0: all."""
    pairs: int = 3
    """Pairs of classes that starts are compared on (the paper: 10)."""
    pair_limit: int = 400
    """Training images of a pair, stratified; 0: all."""
    validation: int = 2000
    """Validation images, stratified; 0: all."""
    depth: tuple[int, int] = (5, 7)
    """Fewest and most layers (the paper: 10 to 100)."""
    width: tuple[int, int] = (6, 10)
    """Fewest and most channels at full resolution (the paper: 16 to 64)."""
    epochs: int = 2
    """Epochs of the first candidate of the macro search (the paper: 10)."""
    micro_epochs: int = 2
    """Epochs of the candidates of the micro search, as in the paper."""
    final_epochs: int = 10
    """Epochs of the found networks (the paper: 20 for operations, then 600; not told for starts)."""
    seeds: int = 3
    """Searches with operations and without (the paper: 10)."""
    train_all: bool = False
    """Train the networks that are tested on the validation images, too, as the paper does."""


def run(args: Args) -> None:
    if args.quick:
        tiny = {"data": "digits", "limit": 192, "depth": (3, 3), "width": (2, 2), "epochs": 1, "final_epochs": 1}
        args = dataclasses.replace(args, **tiny, micro_epochs=1, pairs=2, pair_limit=128, seeds=2)
    settings = _common.identity(args, "quiet", "jobs", "quick", "pairs", "seeds")
    defaults.device(args.device)
    classes = _plain.images(_plain.subset_of(args)).classes  # what cannot be is refused before anything is written
    wanted = searches(args, classes)
    RunFolder(args.run).begin(settings)
    clock = _common.Clock(args.run, "global_nas_ablation")
    found = _plain.all_of(args, _plain.search_one, {folder("search", n): job for n, job in wanted.items()}, "searches")
    tested = {"test": True, "train_all": args.train_all}
    jobs = {
        folder("found", name): Job(last(args, found[folder("search", name)]), job.seed, job.subset, **tested)
        for name, job in wanted.items()
    }
    trained = _plain.all_of(args, _plain.train_one, jobs, "trainings")

    def row(name: str) -> dict[str, Any]:
        result, search = trained[folder("found", name)], found[folder("search", name)]
        return {
            "accuracy": 100 * result["test_accuracy"],
            "params": result["params"],
            "trained": search["trained"],
            "found": search["found"],
            "classes": list(wanted[name].subset.classes),
        }

    starts = {name: [row(f"{name}/{i}") for i in range(args.pairs)] for name in STARTS}
    operations = {name: [row(f"{name}/{i}") for i in range(args.seeds)] for name in ("with", "without")}
    write(args, _common.results("global_nas_ablation", args, clock, starts=starts, operations=operations))


def folder(part: str, name: str) -> str:
    """Of a search or its final training."""
    arm, _, number = name.partition("/")
    return f"{part}/{arm.lower().replace(' ', '-').replace('×', 'x')}/{number}"


def searches(args: Args, classes: int) -> dict[str, Search]:
    """Every start on every pair of classes, and both arms with every seed, by ``ARM/NUMBER``.

    Raises:
        UserError: there are not so many pairs; bounds that cannot be.
    """
    config = Config(depth=args.depth, width=args.width, epochs=args.epochs, micro_epochs=args.micro_epochs)
    every = list(itertools.combinations(range(classes), 2))
    if args.pairs > len(every):
        raise UserError(f"--pairs {args.pairs}: {args.data} has {len(every)} pairs of classes")
    order = np.random.default_rng([0, 3]).permutation(len(every))
    found = {}
    for name, (op, kernel) in STARTS.items():
        for number, place in enumerate(order[: args.pairs]):
            subset = Subset(args.data, args.data_root, args.pair_limit, args.validation, every[place])
            start = dataclasses.replace(config, start_op=op, start_kernel=kernel)
            found[f"{name}/{number}"] = Search(start, 0, subset)
    for name in ("with", "without"):
        for seed in range(args.seeds):
            arm = dataclasses.replace(config, operations=name == "with")
            found[f"{name}/{seed}"] = Search(arm, seed, _plain.subset_of(args))
    return found


def last(args: Args, search: Mapping[str, Any]) -> Any:
    """The found network, to be trained to the end."""
    return dataclasses.replace(_plain.candidate(search["found"]), epochs=args.final_epochs)


# --- what came out


def write(args: Args, result: dict[str, Any]) -> None:
    """The results, their tables and the picture."""
    _report.report(args.output, result, tables(result), draw)


def tables(result: Mapping[str, Any]) -> dict[str, dict[str, dict[str, str]]]:
    starts, operations = result["starts"], result["operations"]
    return {
        "starts, on pairs of classes": against("Sep 3×3", starts),
        "searches of operations": against("without", operations),
    }


def against(reference: str, arms: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, str]]:
    """A row for each arm, with its differences from one of them."""
    column, rows = f"minus {reference}", {}
    for name, row in arms.items():
        difference = _report.paired(accuracies(row), accuracies(arms[reference]))
        rows[name] = described(row) | {column: "—" if name == reference else difference}
    return rows


def accuracies(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return [row["accuracy"] for row in rows]


def described(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Mean and standard deviation over the searches."""
    return {
        "test %": _report.mean_sd(accuracies(rows)),
        "k parameters": _report.mean_sd([row["params"] for row in rows], 1e-3),
        "networks trained": _report.mean_sd([row["trained"] for row in rows]),
    }


def draw(figure: Figure, result: Mapping[str, Any]) -> None:
    """Accuracy over parameters: each search a dot, each arm a colour."""
    for axes, part in zip(figure.subplots(1, 2), ("starts", "operations"), strict=True):
        for name, rows in result[part].items():
            axes.scatter([row["params"] / 1e3 for row in rows], accuracies(rows), s=16, label=name)
        axes.set(xlabel="k parameters", ylabel="test accuracy, %", title=part)
        axes.legend(fontsize=8)


if __name__ == "__main__":
    _common.main(run, Args, write)
