"""How well networks of Efficient Global NAS's space are ranked before they are trained to the end (§3.1, §3.2).

As in the paper every network is trained once, with one schedule, and validated after each epoch. Static: all are ranked
after the same epoch. Dynamic: in the order of their parameters, each larger network after a later epoch. Hypotheses,
written down before the run: accuracies spread widely; one epoch and parameters rank badly; dynamic training ranks
better than static training of the same total epochs, and better than the same epochs in random order. The paper's
truth is the end of the very run that is ranked; another training of each network, with another seed, is a second one.
Every finished training is kept in RUN: the same command continues. The test set stays closed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments import _common, _plain, _report
from experiments._plain import Job
from search.dynamic_ranking import schedule, study
from search.efficient_global import Config, sample
from search.ranking import rank, show, spearman
from supernet.errors import UserError
from supernet.runs import RunFolder
from supernet.training import defaults


@dataclass(frozen=True)
class Args(_plain.Options):
    run: Path = Path("runs/experiment-global-nas-ranking")
    """Folder of the trainings."""
    output: Path = Path("docs/results/global_nas_ranking.json")
    """Results."""
    limit: int = 2000
    """Training images, stratified; 0: all."""
    networks: int = 40
    """Random networks (the paper: 240)."""
    epochs: int = 8
    """Epochs of each (the paper: 50)."""
    draws: int = 1000
    """Draws of as many networks as epochs, whose mean dynamic ρ is told; the paper drew once."""
    again: bool = True
    """Train each network a second time, for a truth that does not share its noise with what is ranked."""


def run(args: Args) -> None:
    if args.quick:
        tiny = {"data": "digits", "limit": 192, "depth": (3, 4), "width": (2, 4), "networks": 4, "epochs": 2}
        args = dataclasses.replace(args, **tiny, draws=20)
    if args.networks < max(3, args.epochs):
        raise UserError(f"{args.networks} networks for {args.epochs} epochs: expected 3 or more, one for each epoch")
    names = ("data", "limit", "validation", "depth", "width", "epochs", "augment", "device")
    settings = {name: getattr(args, name) for name in names}
    defaults.device(args.device)
    _plain.images(_plain.subset_of(args))  # what cannot be is refused before anything is written
    RunFolder(args.run).begin(settings)
    clock = _common.Clock(args.run, "global_nas_ranking")
    trained = _plain.all_of(args, _plain.train_one, trainings(args), "trainings")
    curves = [[trained[name(i, seed)]["curve"] for i in range(args.networks)] for seed in range(1 + args.again)]
    params = [trained[name(i, 0)]["params"] for i in range(args.networks)]
    result = {"params": params, "curves": curves[0], "again": [curve[-1] for curve in curves[1]] if args.again else []}
    write(args, _common.results("global_nas_ranking", args, clock, **result, **judged(result, args.draws)))


def name(network: int, seed: int) -> str:
    """The folder of a training."""
    return f"trainings/{network}-{seed}"


def trainings(args: Args) -> dict[str, Job]:
    """Every network once, or twice with two seeds."""
    rng, config = np.random.default_rng([0, 2]), Config(depth=args.depth, width=args.width)
    drawn = [sample(rng, config, args.epochs) for _ in range(args.networks)]
    return {
        name(i, seed): Job(network, seed, _plain.subset_of(args), curve=True)
        for seed in range(1 + args.again)
        for i, network in enumerate(drawn)
    }


# --- what came out


def judged(result: Mapping[str, Any], draws: int) -> dict[str, Any]:
    """Spearman's ρ of every way to rank, by the end of the same runs (as in the paper) and by that of others."""
    curves, params = np.array(result["curves"]), np.array(result["params"])
    epochs = range(1, curves.shape[1] + 1)
    final, again = curves[:, -1], result["again"]
    truths = {"study": (final, again or None)} | ({"independent": (np.array(again), None)} if again else {})
    found: dict[str, Any] = {
        name: dataclasses.asdict(study(params.tolist(), epochs, curves, truth, other))
        for name, (truth, other) in truths.items()
    }
    chosen = schedule(params, len(epochs))
    dynamic = curves[np.arange(len(curves)), chosen]
    pairs = {
        "1 epoch": (curves[:, 0], final),
        "parameters": (params, final),
        "dynamic": (dynamic, final),
        "dynamic with parameters": (dynamic, params),
    }
    rankings = {what: rank(a, b) for what, (a, b) in pairs.items()}
    found["rho"] = {what: {"rho": r.rho, "interval": r.rho_interval} for what, r in rankings.items()}
    return found | {"sampled": sampled(curves, params, draws)}


def sampled(curves: np.ndarray, params: np.ndarray, draws: int) -> dict[str, Any]:
    """The paper's own way: of as many networks as epochs the n-th smallest after n epochs; means over draws of them."""
    rng, n = np.random.default_rng(0), curves.shape[1]
    rows = []
    for _ in range(draws):
        some = rng.choice(len(curves), n, replace=False)
        some = some[np.argsort(params[some], kind="stable")]
        dynamic = curves[some, np.arange(n)]
        rows.append([spearman(dynamic, curves[some, -1]), spearman(dynamic, params[some])])
    values = np.array(rows)
    told = {}
    for column, what in enumerate(("dynamic", "dynamic with parameters")):
        of = values[np.isfinite(values[:, column]), column]
        ends = np.quantile(of, (0.025, 0.975)).tolist() if len(of) else None
        told[what] = {"networks": n, "rho": float(of.mean()) if len(of) else None, "draws_interval": ends}
    return told


def write(args: Args, result: dict[str, Any]) -> None:
    """The results, their tables and the picture."""
    _report.report(args.output, result, tables(result), draw)


def tables(result: Mapping[str, Any]) -> dict[str, dict[str, dict[str, str]]]:
    final = [100 * curve[-1] for curve in result["curves"]]
    spread = {
        f"{len(final)} networks": {
            "worst %": f"{min(final):.2f}",
            "best %": f"{max(final):.2f}",
            "mean ± sd %": _report.mean_sd(final),
        }
    }
    whole, other = result["study"], result.get("independent")
    names = [*whole["static"], "dynamic", "permuted", "params", "ceiling"]
    rows = {}
    for what in names:
        told = {"by the same runs": rho_of(whole, what)}
        if other is not None:
            told["by other trainings"] = rho_of(other, what)
        rows[f"after {what} epochs" if what in whole["static"] else WORDS[what]] = told
    rho = {what: {"ρ (95 % over networks)": show(r["rho"], r["interval"])} for what, r in result["rho"].items()}
    gain = {
        what: {"Δρ (95 % over networks)": show(of["gain"], of["gain_interval"])}
        for what, of in (("by the same runs", whole), ("by other trainings", other))
        if of is not None
    }
    drawn = {
        f"{what}, {r['networks']} networks": {"ρ (95 % of draws)": show(r["rho"], r["draws_interval"])}
        for what, r in result["sampled"].items()
    }
    title = "dynamic minus static of as many epochs, or of the next more"
    told = {"accuracies": spread, "Spearman's ρ": rows, "with intervals": rho}
    return {**told, title: gain, "the paper's draw, repeated": drawn}


WORDS = {
    "dynamic": "dynamic: the larger the later",
    "permuted": "the same epochs, permuted",
    "params": "parameters, no training",
    "ceiling": "the end of another training",
}


def rho_of(of: Mapping[str, Any], what: str) -> str:
    """A value of a ``Study``; those of static rankings by their epochs."""
    value = of["static"].get(what) if what in of["static"] else of[what]
    return "—" if value is None else f"{value:.2f}"


def draw(figure: Figure, result: Mapping[str, Any]) -> None:
    """ρ by epoch, and the accuracies over the parameters."""
    left, right = figure.subplots(1, 2)
    for what, label in (("study", "the same runs"), ("independent", "other trainings")):
        if what in result:
            static: Sequence = list(result[what]["static"].items())
            line = left.plot([int(e) for e, _ in static], [r for _, r in static], marker="o", label=f"static, {label}")
            if result[what]["dynamic"] is not None:
                left.axhline(
                    result[what]["dynamic"], color=line[0].get_color(), linestyle="--", label=f"dynamic, {label}"
                )
    left.set(xlabel="epoch that is ranked by", ylabel="Spearman's ρ with the end")
    left.legend(fontsize=8)
    right.scatter([p / 1e3 for p in result["params"]], [100 * c[-1] for c in result["curves"]], s=14)
    right.set(xlabel="k parameters", ylabel="accuracy at the end, %", xscale="log")


if __name__ == "__main__":
    _common.main(run, Args, write)
