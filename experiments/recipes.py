"""What a recipe is worth for one network: the quickstart's winner, trained alone by each for 3, 12 and 30 epochs.

All training images are used as retrain.py uses them, and each network is tested once. A finished training is kept, so
the command can be stopped and continued. ``--rows`` trains others, ``--epochs`` for so long: a recipe to be tried is a
line of ``rows``.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from experiments import _common, _report
from supernet import executor, machine, spaces
from supernet.data import sets
from supernet.errors import UserError
from supernet.executor import Processes
from supernet.progress import shown
from supernet.retraining import Settings
from supernet.space import Arch
from supernet.training import defaults, recipes, standalone
from supernet.training.evaluation import shared_answers

WINNER: Arch = (1, 0, 1, 3, 0, 0)  # k5_e4 in three layers, the others left out: 3.54 MFLOPs, 61.3 k parameters


def rows(height: int) -> dict[str, dict[str, Any]]:
    """What is compared, as ``Settings`` takes it, for images of this height; the first is what others are told from."""
    modern = {"recipe": "modern"}
    return {
        "paper": {},
        "paper, cosine": {"schedule": "cosine"},
        "modern": modern,
        "modern, without augmentation": modern | {"augment": False},
        "modern, with strong augmentation": modern | recipes.STRONG,
        "modern, 5/7 of the resolution first": modern | {"train_resolution": round(5 / 7 * height)},
        "modern by SGD": modern | {"optimizer": "sgd", "lr": 0.4},
        "modern by LAMB": modern | {"optimizer": "lamb"},
        "modern, batches of 32": modern | {"batch_size": 32},
    }


@dataclass(frozen=True)
class Args(_common.OnImages):
    run: Path = Path("runs/experiments")
    """Folder of what is under way."""
    output: Path = Path("docs/results/recipes.json")
    """The results."""
    rows: tuple[str, ...] = ("paper", "modern", "modern, without augmentation")
    """Recipes, by their names in ``rows``."""
    epochs: tuple[int, ...] = (3, 12, 30)
    """Lengths of the trainings."""
    seeds: int = 3
    """Trainings of each, seeds 0, 1, …"""
    space: str = "mobile-small"
    """The space of the network."""
    arch: Arch = WINNER
    """The network."""
    jobs: int = machine.cores()
    """Networks trained in parallel, one thread each."""


@dataclass(frozen=True)
class Training:
    """One network trained by one recipe."""

    args: Args
    row: str
    epochs: int
    seed: int

    @property
    def key(self) -> str:
        return f"{self.row}, {self.epochs} epochs, seed {self.seed}"

    @property
    def table(self) -> str:
        return f"{self.epochs} epochs"


def trained(training: Training) -> dict[str, float]:
    """Accuracies on both parts, and CPU minutes."""
    defaults.keep_memory()
    torch.set_num_threads(1)
    args, start = training.args, time.process_time()
    images = sets.open_train(args.data, args.data_root, seed=0)
    space = spaces.get(args.space, images.channels, images.size, images.classes)
    how = rows(images.resolution)[training.row]
    cfg = Settings(**{"epochs": training.epochs, "seed": training.seed, **how}).fit
    folder = args.run / f"recipes-{training.key}".replace(" ", "-").replace("/", "-")
    network, last = standalone.train(space, space.check(args.arch), images, cfg, folder, _common.CPU, kernels="fused")
    tested = shared_answers(network, sets.open_test(args.data, args.data_root)).share()
    shutil.rmtree(folder)
    minutes = (time.process_time() - start) / 60
    return {"test": tested, "val": last["val_accuracy"], "train": last["accuracy"], "minutes": minutes}


def trainings(args: Args, seed: int) -> Iterator[Training]:
    """Those of a seed. Recipes that are the same for so many epochs are trained once, by the first of their names."""
    for epochs in args.epochs:
        seen = []
        for row in args.rows:
            cfg = Settings(**{"epochs": epochs, **rows(10**3)[row]}).fit
            if cfg not in seen:
                yield Training(args, row, epochs, seed)
            seen.append(cfg)


def run(args: Args) -> None:
    if args.quick:
        args = dataclasses.replace(args, rows=args.rows[:2], epochs=(1,), seeds=1)
    unknown = [row for row in args.rows if row not in rows(10**3)]
    if unknown:
        raise UserError(f"unknown recipe {unknown[0]!r}: expected some of {', '.join(rows(10**3))}")
    clock = _common.Clock(args.run, "recipes")
    kept = _common.Kept(
        args.output, _common.results("recipes", args, clock), clock, ("seeds", "rows", "epochs", "jobs")
    )
    for seed in range(args.seeds):
        left = {one.key: one for one in trainings(args, seed) if len(kept.row(one.table, one.row)) <= seed}

        def keep(key: str, made: dict[str, float], left: dict[str, Training] = left, seed: int = seed) -> None:
            kept.add(left[key].table, left[key].row, seed, lambda: made)

        if left:
            bar = shown(not args.quiet)(f"recipes, seed {seed}", len(left), unit="networks")
            jobs = {key: (one,) for key, one in left.items()}
            executor.run(Processes(args.jobs), trained, jobs, bar, finished=keep)
    finish(args, kept.found)


def tables(result: dict) -> dict[str, list[str]]:
    """The tables of the results, and their rows in order."""
    found = sorted((name for name in result if name.endswith(" epochs")), key=lambda name: int(name.split()[0]))
    return {name: [row for row in rows(10**3) if row in result[name]] for name in found}


def finish(args: Args, result: dict) -> None:
    shown: dict[str, dict[str, dict[str, str]]] = {}
    for table, names in tables(result).items():
        shown[table] = {}
        first = [made["test"] for made in result[table][names[0]]]
        for name in names:
            made = result[table][name]
            points = [one["test"] - other for one, other in zip(made, first, strict=False)]
            shown[table][name] = {
                "test, %": _report.mean_sd([one["test"] for one in made], 100),
                f"against {names[0]}, points": "" if name == names[0] else _report.mean_sd(points, 100),
                "validation, %": _report.mean_sd([one["val"] for one in made], 100),
                "training, %": _report.mean_sd([one["train"] for one in made], 100),
                "CPU minutes": f"{np.mean([one['minutes'] for one in made]):.1f}",
            }
    _report.report(args.output, result, shown, draw, (7.0, 4.0))


def draw(figure: Figure, result: dict) -> None:
    """Test accuracy over the epochs, a line for each recipe."""
    axes = figure.subplots()
    known = tables(result)
    for name in rows(10**3):
        points = [
            (int(table.split()[0]), [100 * one["test"] for one in result[table][name]])
            for table, names in known.items()
            if name in names
        ]
        if points:
            epochs, values = zip(*points, strict=True)
            spread = [np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in values]
            axes.errorbar(epochs, [np.mean(v) for v in values], spread, marker="o", markersize=4, capsize=2, label=name)
    axes.set(xscale="log", xlabel="epochs", ylabel="test accuracy, %")
    axes.set_xticks([int(table.split()[0]) for table in known], [table.split()[0] for table in known])
    axes.minorticks_off()
    axes.grid(alpha=0.2)
    axes.legend(fontsize=8)


if __name__ == "__main__":
    _common.main(run, Args, finish)
