"""Every network of a space of 64, trained alone with several seeds: what any search on it should have found.

The space is a part of mobile-small in which every layer has a good and a bad operation. Each finished training is
kept, so the command can be stopped and continued. Search and scoring can be put on disjoint seeds.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import _common
import numpy as np
from _common import _cli
from rich.table import Table

from search import ranking
from supernet import blocks, checkpoint, spaces
from supernet.space import Space

# mobile-small: identity, max pool, k3_e1, k5_e4; the first layer of a group (0 and 2) has k3_e1, k5_e4.
KEEP = ((0, 1), (0, 3), (0, 1), (1, 3), (0, 3), (1, 2))


@dataclass(frozen=True)
class Args:
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
    data: str = "fashion-mnist"
    """Images."""
    data_root: Path = Path("data")
    """Where image sets lie."""
    jobs: int = os.cpu_count() or 1
    """Networks trained side by side, one thread each."""
    quick: bool = False
    """Eight networks, one epoch on few images: shows that it works, tells nothing."""
    quiet: bool = False
    """No progress."""


def truth_space(channels: int = 1, resolution: int = 28, classes: int = 10) -> Space:
    """The 64 networks."""
    return spaces.get("mobile-small", channels, resolution, classes).restrict(KEEP)


def run(args: Args) -> None:
    images = _common.Images(args.data, str(args.data_root), args.train)
    epochs, seeds, space = args.epochs, args.seeds, truth_space()
    if args.quick:
        images = _common.Images(args.data, str(args.data_root), 640, 200, 400)
        epochs, seeds = 1, 2
    archs = space.enumerate()[:: 8 if args.quick else 1]
    budget = _common.Budget(images, epochs)
    truth = _common.Truth(args.run, space, budget, args.jobs, args.quiet)
    accuracies = truth(archs, range(seeds), "truth table")
    flops = [blocks.flops(space, arch) for arch in archs]
    summary = summarise(accuracies, np.array(flops, float))
    checkpoint.write_json(
        args.output,
        {
            "schema": 1,
            "command": _common.command(),
            "space": space.to_json(),
            "budget": asdict(budget),
            "archs": [list(arch) for arch in archs],
            "flops": flops,
            "accuracies": accuracies.tolist(),
            "summary": summary,
        },
    )
    table = Table(title=f"{len(archs)} networks × {seeds} seeds, {epochs} epochs on {images.train:,} images")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in summary.items():
        table.add_row(name.replace("_", " "), value if isinstance(value, str) else f"{value:.4g}")
    _cli.console.print(table)
    _cli.console.print(f"→ {args.output}", highlight=False)


def summarise(accuracies: np.ndarray, flops: np.ndarray) -> dict[str, float | str]:
    """Spread between networks and between seeds, and how well one seed ranks the others."""
    mean = accuracies.mean(axis=1)
    summary: dict[str, float | str] = {
        "best_percent": 100 * mean.max(),
        "mean_percent": 100 * mean.mean(),
        "sd_of_networks_points": 100 * mean.std(ddof=1),
    }
    seeds = range(accuracies.shape[1])
    pairs = [ranking.kendall(accuracies[:, a], accuracies[:, b]) for a in seeds for b in range(a)]
    if pairs:
        summary["sd_of_seeds_points"] = 100 * float(np.sqrt(accuracies.var(axis=1, ddof=1).mean()))
        summary["tau_of_one_seed_against_another"] = float(np.mean(pairs))
    of_flops = ranking.rank(flops, mean)
    summary["tau_of_multiply_adds"] = ranking.show(of_flops.tau, of_flops.tau_interval)
    return summary


if __name__ == "__main__":
    _cli.main(run, Args)
