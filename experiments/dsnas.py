"""DSNAS against retraining, SPOS in four ways, and random search: accuracies, curves, hours.

Table 3 and Figure 3 of DSNAS, and the claims of §4.2. Every finished arm is kept in RUN: the same command continues.
Accuracies are those of one half of the validation split; SPOS selects on the other half, DSNAS on neither. The test set
stays closed. Seconds are those of trainings and searches by the clock; validation after each epoch is left out.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from experiments import _common, _dsnas_arms, _report
from latency.measure import host
from supernet import files
from supernet.cli import printing
from supernet.errors import UserError
from supernet.runs import RunFolder

# Figure 3's curves by their names there, and ours.
CURVES = {
    "DSNASsearch240": "direct",
    "SPOSsearch120retrain240": "SPOS retrained",
    "SPOSsearch120tune120": "SPOS bound",
    "SPOSsearch240": "SPOS one stage",
    "SPOSsearch240retrain240": "SPOS whole",
    "DSNAS, evolution": "DSNAS evolution",
}


@dataclass(frozen=True)
class Options(_common.OnDevice):
    """Options of experiments that compare searches as these do."""

    run: Path = Path("runs/experiment-dsnas")
    """Folder of the trainings and of the finished arms."""
    output: Path = Path("docs/results")
    """Where dsnas.json, dsnas.md and dsnas.png go."""
    seeds: int = 6
    """Seeds 0, 1, …: of the split, the weights, the paths."""
    data: str = "fashion-mnist"
    """Images: a name, or folder with --data-root."""
    data_root: Path = Path("data")
    """Dataset directory."""
    pixels: int = 0
    """Height and width of images of a folder; 0: as a data set has them."""
    space: str = "mobile-small"
    """Search space (the paper: shufflenet)."""
    limit: int = 5000
    """Training images, stratified; 0 takes all."""
    select: int = 1000
    """Validation images that SPOS selects by, at most."""
    epochs: int = 12
    """Epochs of DSNAS in all, of training from scratch, and of SPOS and its child together (the paper: 240)."""
    search_epochs: int = 4
    """Epochs until DSNAS fixes its child (the paper: 80)."""
    spos_epochs: int = 6
    """Epochs until SPOS selects (the paper: 120)."""
    batch_size: int = 32
    """Images per step (the paper: 1024)."""
    lr: float | None = None
    """Peak learning rate (the paper: .5); by default of the batch size."""
    augment: bool = False
    """Crops and flips (the paper has them)."""
    arch_lr: float = 0.01
    """Adam's rate for α; the paper's .001 is for a hundred times as many steps."""
    flops_max: float = 2e6
    """The bound of DSNAS and of SPOS, multiply-adds (the paper: 330e6)."""
    population: int = 16
    """Architectures in a generation of SPOS's evolution (its paper: 50)."""
    generations: int = 4
    """Generations (its paper: 20)."""
    top: int = 5
    """Architectures of a search that the results name."""


@dataclass(frozen=True)
class Args(Options):
    stop_gap: float = 0.3
    """Gap of probabilities at which a layer settles."""


def tiny(args: Any) -> Any:
    """Everything as small as can be."""
    size = {"seeds": 2, "limit": 320, "epochs": 2, "search_epochs": 1, "spos_epochs": 1, "population": 3}
    return dataclasses.replace(args, generations=1, **size)


def run(args: Args) -> None:
    path = args.output / "dsnas.json"
    if args.redraw:
        finish(args, files.read_json(path, "results", "run it without --redraw", expected=dict))
        return
    torch.set_num_threads(1)
    if args.quick:
        args = tiny(args)
    if not 0 < args.search_epochs <= args.epochs or not 0 < args.spos_epochs < args.epochs:
        raise UserError(
            f"--search-epochs {args.search_epochs}, --spos-epochs {args.spos_epochs} of --epochs {args.epochs}: "
            "expected at least 1, and fewer than all"
        )
    config = _common.identity(args, "seeds")
    one = _dsnas_arms.Seed(args, 0)  # what cannot be is refused before anything is written
    one.dsnas_config(args.search_epochs, args.stop_gap)
    RunFolder(args.run).begin(config, defaults=_common.OLDER)
    args.output.mkdir(parents=True, exist_ok=True)
    found: list[dict] = []
    for seed in range(args.seeds):
        found.append(_dsnas_arms.arms(args, seed))
        minutes = sum(arm["minutes"] for arms in found for arm in arms.values())
        machine = {**host(), "torch": torch.__version__, "load": os.getloadavg()[0], "minutes": round(minutes, 1)}
        command = {"command": _common.command(), "settings": config, "machine": machine}
        files.write_json(path, {**command, "seeds": found})
    finish(args, files.read_json(path, "results", "run it again"))


# --- what came out


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % interval of the mean, by Student's t."""
    n = len(values)
    return float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else None


def mean(values: Sequence[float], form: str = "{:.2f}") -> str:
    """Mean ± 95 % interval."""
    half = interval(values)
    return form.format(np.mean(values)) + ("" if half is None else f" ± {half:.2f}")


def finish(args: Args, result: dict) -> None:
    """Tables on the screen and in dsnas.md, the picture in dsnas.png."""
    arms, path = result["seeds"], args.output / "dsnas.md"
    title = f"{len(arms)} seeds, mean ± 95 % interval"
    rows = table(arms)
    printing.show(_report.table(title, rows))
    machine = {**result["machine"], "cpu_minutes": result["machine"]["minutes"]}
    text = _report.markdown({"command": "python -m experiments.dsnas", **result, "machine": machine}, {title: rows})
    files.write_bytes(path, text.encode())
    draw(args.output / "dsnas.png", arms)
    printing.tell(f"{machine['minutes']:.0f} minutes → {args.output / 'dsnas.json'}, .md, .png")


def table(arms: Sequence[dict[str, dict]]) -> dict[str, dict[str, str]]:
    """Table 3 and what else is claimed, a row for each arm."""
    rows = {}
    for arm in arms[0]:
        of = [by_arm[arm] for by_arm in arms]
        accuracy = [100 * row["accuracy"] for row in of]
        gap = [a - 100 * by_arm["direct"]["accuracy"] for a, by_arm in zip(accuracy, arms, strict=True)]

        def each(name: str, scale: float = 1.0, of=of) -> str:
            return mean([scale * row[name] for row in of]) if name in of[0] else ""

        rows[arm] = {
            "accuracy %": mean(accuracy),
            "minus direct, paired": "" if arm == "direct" else mean(gap, "{:+.2f}"),
            "deviation": f"{np.std(accuracy, ddof=1):.2f}" if len(of) > 1 else "",
            "top-5 %": each("top5", 100),
            "search %": each("search_accuracy", 100),
            "MFLOPs": each("flops", 1e-6),
            "entropy / max": each("entropy"),
            "settled early": each("settled_early"),
            "seconds": each("seconds"),
        }
    return rows


def draw(path: Path, arms: Sequence[dict[str, dict]]) -> None:
    """Figure 3: mean accuracies over epochs and over seconds; beside it all arms."""
    figure = Figure(figsize=(14, 4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    *curves, right = figure.subplots(1, 3)
    for name, arm in CURVES.items():
        of = [np.array(by_arm[arm]["curve"]) for by_arm in arms if "curve" in by_arm.get(arm, {})]
        if of:
            epochs, seconds, accuracy = np.mean(of, axis=0).T
            for ax, x in zip(curves, (epochs, seconds), strict=True):
                ax.plot(x, 100 * accuracy, label=name)
    for ax, x in zip(curves, ("epochs", "seconds of the trainings and searches"), strict=True):
        ax.set(xlabel=x, ylabel="validation accuracy (%)")
        ax.grid(alpha=0.2)
        if ax.lines:
            ax.legend(fontsize=7)
    for seed, by_arm in enumerate(arms):
        right.scatter(list(by_arm), [100 * row["accuracy"] for row in by_arm.values()], label=f"seed {seed}", s=12)
    right.set(ylabel="validation accuracy (%)", title="at the end")
    right.tick_params(axis="x", rotation=60, labelsize=7)
    right.grid(alpha=0.2)
    right.legend(fontsize=7, bbox_to_anchor=(1.0, 1.0), loc="upper left")  # beside the points
    figure.savefig(path)


if __name__ == "__main__":
    _common.main(run, Args)
