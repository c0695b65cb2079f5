"""Networks of Stage-Wise NAS on images that they were not found on, beside networks of uniform depth (Table VI).

What searches found on one kind of images (FOUND, by ``experiments.stage_wise_uniform``) is trained from scratch on
others, with their classes and sizes: the last candidates of each seed's searches with residual modules and with cells,
and the deepest uniform networks of that experiment. Top-5 as in the paper, and top-1.

*Expectation.* The paper's found networks are 2.4 and 1.2 points better than ResNet-110 in top-5, those of cells within
1.3 points of NASNet-241. Tried: the paired difference per seed, found minus uniform.

Every finished training is kept in RUN, every network in OUTPUT: the same command continues.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from experiments import _common, _report, _stages
from experiments.papers.item import mean
from experiments.stage_wise_uniform import ARMS, deepest, last
from supernet import files
from supernet.errors import UserError

DRAWN = "experiments/_drawn.py:small"
NAMES = {"residual": "residual modules", "cells": "cells"}


@dataclass(frozen=True)
class Args(_stages.Networks):
    output: Path = Path("docs/results/stage_wise_transfer.json")
    """The results; tables (.md) and a picture (.png) beside them."""
    found: Path = Path("docs/results/stage_wise_uniform.json")
    """Results of experiments.stage_wise_uniform, whose networks are trained."""
    sets: tuple[str, ...] = ("digits", DRAWN)
    """Images to train on, each as --data of the tools takes them."""
    epochs: int | None = 5
    """Epochs of every network."""
    train: int = 0
    """Training images, stratified; 0: all."""


def run(args: Args) -> None:
    torch.set_num_threads(1)
    form = {"searches": dict, "uniform": dict, "settings": {"chosen": [int]}}
    given = files.read_json(args.found, "results", "run python -m experiments.stage_wise_uniform", expected=form)
    if args.quick:
        args = dataclasses.replace(args, seeds=1, width=4, epochs=1, train=200, batch_size=32, sets=args.sets[:1])
    kinds = [kind for kind in NAMES if kind in given["searches"]]
    known = min((len(last(given, kind)) for kind in kinds), default=0)
    if args.seeds > known:
        raise UserError(f"{args.seeds} seeds, but {args.found} has {known}: run that with more, or this with fewer")
    clock = _common.Clock(args.run, args.output.stem)
    kept = _common.Kept(args.output, _common.results("stage_wise_transfer", args, clock), clock)
    for name in args.sets:
        study = _stages.Stages(args, name)
        for seed in range(args.seeds):
            for kind in kinds:
                module = ARMS[kind].module
                for what, rows in (("found", last(given, kind)), ("uniform", deepest(given, module))):
                    modules = rows[seed]["modules"]
                    row = f"{Path(name).name}, {kind}, {what}"
                    kept.add("networks", row, seed, lambda s=study, k=module, m=modules, i=seed: alone(s, k, m, i))
    finish(args, kept.found)


def alone(study: _stages.Stages, module: str, modules: list[int], seed: int) -> dict[str, Any]:
    """A network, trained from scratch."""
    return {name: value for name, value in study.alone(module, modules, seed).items() if name != "path"}


def gain(result: Mapping[str, Any], images: str, kind: str, metric: str = "top5_accuracy") -> list[float]:
    """Found minus uniform, by seed."""
    found, even = (result["networks"][f"{images}, {kind}, {what}"] for what in ("found", "uniform"))
    return [a[metric] - b[metric] for a, b in zip(found, even, strict=True)]


def pairs(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Images and kinds of networks that were compared."""
    return [tuple(name.split(", ")[:2]) for name in result["networks"] if name.endswith(", found")]


def finish(args: Args, result: dict) -> None:
    _report.report(args.output, result, tables(result), draw)


def tables(result: Mapping[str, Any]) -> _report.Tables:
    """± is half of the 95 % interval over the seeds, by Student's t."""
    rows = {}
    for images, kind in pairs(result):
        for what in ("uniform", "found"):
            of = result["networks"][f"{images}, {kind}, {what}"]
            rows[f"{images}: {NAMES[kind]}, {what}"] = {
                "k parameters": mean([row["params"] for row in of], 1e-3, digits=1),
                "M multiply-adds": mean([row["flops"] for row in of], 1e-6),
                "top-5, %": mean([row["top5_accuracy"] for row in of], 100),
                "top-1, %": mean([row["accuracy"] for row in of], 100),
            }
        rows[f"{images}: {NAMES[kind]}, difference"] = {
            "k parameters": "",
            "M multiply-adds": "",
            "top-5, %": mean(gain(result, images, kind), 100, "+"),
            "top-1, %": mean(gain(result, images, kind, "accuracy"), 100, "+"),
        }
    return {"Trained from scratch on other images than they were found on (Table VI)": rows}


def draw(figure: Figure, result: Mapping[str, Any]) -> None:
    """Found minus uniform of every seed, by images and modules."""
    compared = pairs(result)
    for axes, metric in zip(figure.subplots(1, 2), ("top5_accuracy", "accuracy"), strict=True):
        for i, (images, kind) in enumerate(compared):
            points = [100 * value for value in gain(result, images, kind, metric)]
            axes.scatter([i] * len(points), points, s=18, alpha=0.7)
            axes.hlines(sum(points) / len(points), i - 0.3, i + 0.3, color="black")
        axes.axhline(0, color="0.5", linewidth=0.8, zorder=0)
        axes.set_xticks(range(len(compared)), ["\n".join(pair) for pair in compared], fontsize=7)
        axes.set(ylabel="found − uniform (points)", title="top-5" if metric.startswith("top5") else "top-1")
        axes.grid(alpha=0.2)


if __name__ == "__main__":
    _common.main(run, Args, finish)
