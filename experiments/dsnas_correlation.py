"""Whether accuracies of the search tell those after retraining: within a search, and between searches.

Table 2 of DSNAS: Kendall's τ of SPOS and of ProxylessNAS. τ_inter is over the best networks of one search, τ_intra over
the winners of several. All searches have one split of the images; they differ in weights and draws. Every finished
search and training is kept in RUN: the same command continues.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from experiments import _common, _report, dsnas
from experiments._dsnas_arms import Seed
from search import ranking
from supernet import files
from supernet.errors import UserError
from supernet.methods import proxyless
from supernet.methods.dsnas import Budget
from supernet.runs import RunFolder
from supernet.training import defaults

METHODS = ("SPOS", "ProxylessNAS")


@dataclass(frozen=True)
class Args(dsnas.Options):
    run: Path = Path("runs/experiment-dsnas-correlation")
    """Folder of the searches and trainings."""
    output: Path = Path("docs/results/dsnas_correlation.json")
    """Results; tables and picture beside it."""
    top: int = 6
    """Best networks of each search of SPOS that are retrained."""
    epochs: int = 6
    """Epochs of training from scratch (the paper: 240)."""
    search_epochs: int = 12
    """Epochs of ProxylessNAS's search."""
    weight_epochs: int = 4
    """First epochs of it that train weights only (its paper: 40 of 240)."""
    cost_weight: float = 0.1
    """ProxylessNAS's weight of the expected cost, as a share of the bound."""


def run(args: Args) -> None:
    torch.set_num_threads(1)
    if args.quick:
        args = dataclasses.replace(dsnas.tiny(args), seeds=3, top=3, search_epochs=2, weight_epochs=1)
    if args.seeds < 3 or args.top < 3:
        raise UserError(f"--seeds {args.seeds}, --top {args.top}: a ranking needs three or more")
    defaults.device(args.device)
    gates(Seed(args, 0))  # what cannot be is refused before anything is written
    config = _common.identity(args, "seeds")
    RunFolder(args.run).begin(config)
    clock = _common.Clock(args.run, "correlation")
    searches: dict[str, list[dict]] = {method: [] for method in METHODS}
    for seed in range(args.seeds):
        one = Seed(args, seed, split=0)
        searches["SPOS"].append(one.arm("spos-search", lambda one=one: spos_search(one)))
        searches["ProxylessNAS"].append(one.arm("proxyless-search", lambda one=one: proxyless_search(one)))
        made = _common.results("dsnas_correlation", args, clock, searches=searches)
        files.write_json(args.output, made)
    finish(args, {**made, **summary(searches)})


def retrained(one: Seed, arch: Sequence[int]) -> float:
    """Accuracy from scratch, on images that no search has seen."""
    return one.scratch({"arch": list(arch), "seconds": 0.0}, [])["accuracy"]


def spos_search(one: Seed) -> dict:
    """The best of a search, by their one-shot and their retrained accuracies."""
    _, found = one.searched()
    rows = []
    for arch, accuracy in found["top"]:
        cell = one.folder / f"top-{'-'.join(map(str, arch))}.json"
        rows.append([arch, accuracy, _common.cell(cell, lambda arch=arch: retrained(one, arch))])
    return {"top": rows}


def gates(one: Seed) -> proxyless.Config:
    """The settings of ProxylessNAS."""
    args, budget = one.args, Budget(one.flops.table, one.flops.base, one.args.flops_max)
    rates = {"arch_lr": args.arch_lr, "cost_weight": args.cost_weight}
    how = {**rates, "kernels": one.kernels, "recalibration": (4, 128)}
    return proxyless.Config(one.schedule(args.search_epochs), budget, args.weight_epochs, **how)


def proxyless_search(one: Seed) -> dict:
    """The most probable network, judged on the images that SPOS selects by."""
    arch, accuracy = proxyless.run(one.space, one.selecting, gates(one), one.folder / "proxyless", one.device)
    return {"top": [[list(arch), accuracy, retrained(one, arch)]], "flops": one.flops(arch)}


# --- what came out


def summary(searches: dict[str, list[dict]]) -> dict:
    """τ within each search, and between searches by their winners, with 95 % intervals by the bootstrap."""
    within = [
        ranking.kendall(*np.array([row[1:] for row in s["top"]]).T) for s in searches["SPOS"] if len(s["top"]) > 2
    ]
    between = {}
    for method, found in searches.items():
        first = [search["top"][0][1:] for search in found]
        ranked = ranking.rank(*zip(*first, strict=True))
        between[method] = {"tau": ranked.tau, "interval": ranked.tau_interval}
    return {"tau_inter": {"SPOS": [None if np.isnan(tau) else tau for tau in within]}, "tau_intra": between}


def finish(args: Args, result: dict) -> None:
    _report.report(args.output, result, tables(result), draw)


def tables(result: dict) -> dict[str, dict[str, dict[str, str]]]:
    inter = {name: [tau for tau in values if tau is not None] for name, values in result["tau_inter"].items()}
    rows = {}
    for method, found in result["searches"].items():
        between = result["tau_intra"][method]
        rows[method] = {
            "τ_inter, mean of the searches": dsnas.mean(inter[method]) if inter.get(method) else "",
            "τ_intra": ranking.show(between["tau"], between["interval"]),
            "search %": dsnas.mean([100 * search["top"][0][1] for search in found]),
            "retrained %": dsnas.mean([100 * search["top"][0][2] for search in found]),
        }
    return {"Kendall's τ of accuracies in the search and after retraining": rows}


def draw(figure: Figure, result: dict) -> None:
    for ax, (method, found) in zip(figure.subplots(1, 2), result["searches"].items(), strict=True):
        for seed, search in enumerate(found):
            points = 100 * np.array([row[1:] for row in search["top"]])
            ax.scatter(*points.T, s=14, label=f"search {seed}")
            ax.scatter(*points[0], s=60, facecolors="none", edgecolors="black")
        ax.set(xlabel="accuracy in the search (%)", ylabel="retrained (%)", title=f"{method} (○ winners)")
        ax.legend(fontsize=7)
        ax.grid(alpha=0.2)


if __name__ == "__main__":
    _common.main(run, Args, finish)
