"""Every network of a space of 64, trained alone with several seeds: what any search on it should have found.

The space is a part of mobile-small in which every layer has a good and a bad operation. Each finished training is
kept, so the command can be stopped and continued. Search and scoring can be put on disjoint seeds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments import _common, _report
from search import ranking
from supernet import families, files, machine, spaces
from supernet.space import Space

# mobile-small: identity, max pool, k3_e1, k5_e4; the first layer of a group (0 and 2) has k3_e1, k5_e4.
KEEP = ((0, 1), (0, 3), (0, 1), (1, 3), (0, 3), (1, 2))


@dataclass(frozen=True)
class Args(_common.OnImages):
    run: Path = Path("runs/experiments")
    """Folder of the trainings that are finished; shared by the experiments."""
    output: Path = Path("docs/results/truth_table.json")
    """The table."""
    seeds: int = 4
    """Trainings of each network, seeds 0, 1, …"""
    epochs: int = 3
    """Passes over the training images."""
    train: int = 10_000
    """Training images, stratified."""
    jobs: int = machine.cores()
    """Networks trained in parallel, one thread each."""


def truth_space(channels: int = 1, resolution: int = 28, classes: int = 10) -> Space:
    """The 64 networks."""
    return spaces.get("mobile-small", channels, resolution, classes).restrict(KEEP)


def run(args: Args) -> None:
    clock = _common.Clock(args.run, "truth_table")
    images = _common.images_of(args, (640, 200, 400))
    epochs, seeds, space = args.epochs, args.seeds, truth_space()
    if args.quick:
        epochs, seeds = 1, 2
    archs = space.enumerate()[:: 8 if args.quick else 1]
    budget = _common.Budget(images, epochs)
    truth = _common.Truth(args.run, space, budget, args.jobs, args.quiet)
    for done in range(1, seeds + 1):  # results after each seed, all networks of one before the next
        found = {
            "space": space.to_json(),
            "budget": asdict(budget),
            "archs": [list(arch) for arch in archs],
            "flops": [families.flops(space, arch) for arch in archs],
            "accuracies": truth(archs, range(done), f"truth table, {done} of {seeds} seeds").tolist(),
        }
        result = _common.results("truth_table", args, clock, **found)
        files.write_json(args.output, result)
    finish(args, result)


def finish(args: Args, result: dict) -> None:
    values = summarise(np.array(result["accuracies"]), np.array(result["flops"], float))
    rows = {name: {"value": value if isinstance(value, str) else f"{value:.4g}"} for name, value in values.items()}
    networks, seeds = np.shape(result["accuracies"])
    budget = result["budget"]
    title = f"{networks} networks × {seeds} seeds, {budget['epochs']} epochs on {budget['images']['train']:,} images"
    _report.report(args.output, result, {title: rows}, draw)


def summarise(accuracies: np.ndarray, flops: np.ndarray) -> dict[str, float | str]:
    """Spread between networks and between seeds, and how well one seed ranks the others."""
    mean = accuracies.mean(axis=1)
    summary: dict[str, float | str] = {
        "best network, %": 100 * mean.max(),
        "mean, %": 100 * mean.mean(),
        "SD of the networks, points": 100 * mean.std(ddof=1),
    }
    for share in (0.2, 0.4, 0.6):
        inside = mean[flops <= flops.min() + share * np.ptp(flops)]
        summary[f"best − mean within {share:.0%} of the multiply-adds' range, points"] = 100 * (
            inside.max() - inside.mean()
        )
    seeds = range(accuracies.shape[1])
    pairs = [ranking.kendall(accuracies[:, a], accuracies[:, b]) for a in seeds for b in range(a)]
    if pairs:
        summary["SD of the seeds, points"] = 100 * float(np.sqrt(accuracies.var(axis=1, ddof=1).mean()))
        summary["τ of one seed against another"] = float(np.mean(pairs))
    of_flops = ranking.rank(flops, mean)
    summary["τ of multiply-adds"] = ranking.show(of_flops.tau, of_flops.tau_interval)
    return summary


def draw(figure: Figure, result: dict) -> None:
    """Accuracy over multiply-adds, and the first seed against the others."""
    left, right = figure.subplots(1, 2)
    accuracies, flops = 100 * np.array(result["accuracies"]), np.array(result["flops"]) / 1e6
    spread = accuracies.std(axis=1, ddof=1) if accuracies.shape[1] > 1 else None
    style = {"fmt": "o", "markersize": 4, "linewidth": 0.8, "color": "tab:blue"}
    left.errorbar(flops, accuracies.mean(axis=1), yerr=spread, **style)
    left.set(xlabel="MFLOPs", ylabel="accuracy alone (%)", title=f"mean ± SD of {accuracies.shape[1]} seeds")
    others = accuracies[:, 1:].mean(axis=1) if accuracies.shape[1] > 1 else accuracies[:, 0]
    right.scatter(accuracies[:, 0], others, s=16, color="tab:blue", linewidths=0)
    right.set(xlabel="seed 0 (%)", ylabel="mean of the other seeds (%)", title="how well a seed ranks")
    for axes in (left, right):
        axes.grid(alpha=0.2)


if __name__ == "__main__":
    _common.main(run, Args, finish)
