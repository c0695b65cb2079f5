"""PAD-NAS's claims on real images: does pruning make the supernet rank better, and the space better?

Per supernet seed, with the same number of training steps in all: the I-supernet (no pruning), the P-supernet (one),
the PAD-supernet (two), and two controls pruned to the sizes of PAD's spaces: at random, and down to the largest
operations. Kendall's τ between one-shot accuracy and networks trained alone is taken

- on one common set of random networks inside PAD's final space, which I, P and PAD all hold, with paired intervals;
- on each supernet's own front, and for the controls on random networks of their own space;
- beside the ceiling (one training seed of the truth against the others) and τ of multiply-adds alone.

Random networks of PAD's space, of the controls' and of the full space, trained alone, tell what the spaces are worth.
Three disjoint sets of images: for training, for one-shot accuracies, for the truth. Every finished cell is kept.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import _common
import numpy as np
import torch
from _common import _cli
from rich.table import Table

from search import pad_nas, ranking
from search.ces import CESConfig
from search.costs import AdditiveCost
from search.run import Scoring
from supernet import blocks, checkpoint, spaces, spos
from supernet.data import TrainVal
from supernet.model import Supernet
from supernet.space import Arch, Space
from supernet.train import FitConfig

CPU = torch.device("cpu")
SHARE = 0.6  # the bound on multiply-adds, of the way from the smallest to the largest network


@dataclass(frozen=True)
class Args:
    run: Path = Path("runs/experiments")
    """Folder of finished cells and trainings; truth.jsonl is shared by the experiments."""
    output: Path = Path("docs/results/pad_nas.json")
    """The results."""
    space: str = "mobile-small"
    """A space that holds bad operations."""
    seeds: int = 3
    """Supernet seeds."""
    truth_seeds: int = 2
    """Trainings of each network alone; two or more give the ceiling."""
    n: int = 32
    """Networks of the common set."""
    random: int = 16
    """Random networks of each space to train alone."""
    epochs: tuple[int, int, int] = (12, 8, 4)
    """Of the PAD-supernet's stages; the others have as many in all."""
    alone: int = 3
    """Passes over the training images, for a network alone."""
    train: int = 10_000
    """Training images, stratified."""
    data: str = "fashion-mnist"
    """Images."""
    data_root: Path = Path("data")
    """Where image sets lie."""
    population: int = 32
    """Of CES."""
    iterations: int = 12
    """Of CES."""
    threshold: float = 0.01
    """Operations of at most this probability are removed."""
    jobs: int = os.cpu_count() or 1
    """Networks trained side by side, one thread each."""
    quick: bool = False
    """A tiny run: shows that it works, tells nothing."""
    quiet: bool = False
    """No progress."""


def run(args: Args) -> None:
    images = _common.Images(args.data, str(args.data_root), args.train)
    if args.quick:
        images = _common.Images(args.data, str(args.data_root), 320, 200, 300)
        small = {"seeds": 1, "n": 4, "random": 3, "epochs": (1, 1, 1), "alone": 1, "population": 6, "iterations": 2}
        args = dataclasses.replace(args, **small, threshold=0.2)
    opened, _ = _common.open_images(images)
    space = spaces.get(args.space, opened.channels, opened.resolution, opened.classes)
    truth = _common.Truth(args.run, space, _common.Budget(images, args.alone), args.jobs, args.quiet)
    results = [one_seed(args, seed, space, opened, truth) for seed in range(args.seeds)]
    summary = summarise(results)
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(args).items()}
    checkpoint.write_json(
        args.output,
        {"schema": 1, "command": _common.command(), "settings": settings, "summary": summary, "seeds": results},
    )
    show(summary)
    _cli.console.print(f"→ {args.output}", highlight=False)


def one_seed(args: Args, seed: int, space: Space, data: TrainVal, truth: _common.Truth) -> dict:
    """Everything for one supernet seed."""
    folder = args.run / f"pad_nas-{space.name}-{seed}"
    first, second, third = args.epochs
    pad = train(args, space, data, folder / "PAD", (first, second, third), seed)
    p = train(args, space, data, folder / "P", (first, second + third), seed, start=folder / "PAD")
    i = train(args, space, data, folder / "I", (first + second + third,), seed)
    final = pad[-1].space
    stages = [stage.space for stage in pad]
    controls = {
        "random pruning": at_random(stages, seed),
        "keep the largest": keep_largest(stages),
    }

    found = {"I": i[-1], "P": p[-1], "PAD": pad[-1]}
    evaluators = {name: stage.found.evaluator for name, stage in found.items()}
    for name, nested in controls.items():
        model = pruned_alike(args, nested, data, folder / name.replace(" ", "-"), seed, folder / "PAD")
        evaluators[name] = scoring().evaluator(model, data)
    inside = {"I": space, "P": p[-1].space, "PAD": final} | {name: nested[-1] for name, nested in controls.items()}

    # The truth: each network alone, with every truth seed. What is listed twice is trained once.
    seeds = range(args.truth_seeds)
    common = draw(final, args.n, [seed, 1])
    fronts = {name: [record.arch for record in stage.found.search.front()] for name, stage in found.items()}
    drawn = {name: draw(within, args.random, [seed, 2]) for name, within in inside.items()}
    everything = dict.fromkeys([*common, *(a for archs in (*fronts.values(), *drawn.values()) for a in archs)])
    table = dict(zip(everything, truth(list(everything), seeds, f"alone, seed {seed}"), strict=True))

    def alone(archs: Sequence[Arch]) -> np.ndarray:
        return np.array([table[arch] for arch in archs])

    true, flops = alone(common).mean(axis=1), np.array([blocks.flops(space, arch) for arch in common], float)
    scores = {name: evaluators[name](common) for name in found}
    rows = {name: dataclasses.asdict(ranking.rank(scores[name], true)) for name in found}
    rows["multiply-adds"] = {**dataclasses.asdict(ranking.rank(flops, true)), "gap": None}
    if args.truth_seeds > 1:
        rows["ceiling"] = dataclasses.asdict(ranking.rank(alone(common)[:, 0], alone(common)[:, 1:].mean(axis=1)))
    left = ranking.residuals(true, flops)
    beyond = {name: dataclasses.asdict(ranking.rank(ranking.residuals(scores[name], flops), left)) for name in found}
    own = {name: own_tau(evaluators[name], archs, alone(archs)) for name, archs in fronts.items()}
    own |= {f"{name}, random": own_tau(evaluators[name], drawn[name], alone(drawn[name])) for name in controls}
    pairs = {
        f"{b} − {a}": ranking.paired_difference(scores[a], scores[b], true)
        for a, b in (("I", "P"), ("P", "PAD"), ("I", "PAD"))
    }
    return {
        "seed": seed,
        "space_size": {name: within.size for name, within in inside.items()},
        "common_set": rows,
        "common_set_beyond_multiply_adds": beyond,
        "paired_difference_of_tau": pairs,
        "own_front": own,
        "random_networks_alone": {name: alone(archs).mean(axis=1).tolist() for name, archs in drawn.items()},
        "random_networks_one_shot": {name: evaluators[name](archs) for name, archs in drawn.items()},
        "best_of_front_alone": {name: float(alone(archs).mean(axis=1)[-1]) for name, archs in fronts.items()},
    }


def scoring() -> Scoring:
    return Scoring(recalibration=(4, 128))


def train(
    args: Args,
    space: Space,
    data: TrainVal,
    folder: Path,
    epochs: tuple[int, ...],
    seed: int,
    start: Path | None = None,
) -> list[pad_nas.Stage]:
    """PAD-NAS with one stage per entry of ``epochs``; ``start`` has the same first stage already."""
    if start is not None and not folder.exists():
        shutil.copytree(start / "supernet-1", folder.with_name(f"{folder.name}.copy") / "supernet-1")
        folder.with_name(f"{folder.name}.copy").rename(folder)
    flops = AdditiveCost(*reversed(blocks.additive(space, "flops")))
    low, high = flops.bounds(space)
    cfg = pad_nas.Config(
        FitConfig(1, seed=seed, augment=False),
        epochs,
        lr=0.08,
        fine_tune_lr=0.016,
        threshold=args.threshold,
        ces=CESConfig(args.population, args.iterations, seed=seed),
        scoring=scoring(),
        random=0,
    )
    bounds = {"flops": (0.0, low + SHARE * (high - low))}
    stages = pad_nas.run(space, data, cfg, {"flops": flops}, bounds, ["flops"], folder, CPU, {}, args.quiet)
    return list(stages)


def at_random(stages: Sequence[Space], seed: int) -> list[Space]:
    """Spaces that keep as many operations in every layer as ``stages``, drawn at random, each inside the last."""
    rng = np.random.default_rng([seed, 4])
    nested = [stages[0]]
    for stage in stages[1:]:
        sizes = map(len, stage.allowed)
        keep = [rng.choice(open_, size, replace=False) for open_, size in zip(nested[-1].allowed, sizes, strict=True)]
        nested.append(nested[-1].restrict([set(layer.tolist()) for layer in keep]))
    return nested


def keep_largest(stages: Sequence[Space]) -> list[Space]:
    """Spaces that keep as many operations in every layer as ``stages``, those with the most multiply-adds."""
    _, flops = blocks.additive(stages[0], "flops")
    nested = []
    for stage in stages:
        ordered = [sorted(open_, key=lambda i: -row[i]) for open_, row in zip(stages[0].allowed, flops, strict=True)]
        keep = [set(layer[: len(open_)]) for layer, open_ in zip(ordered, stage.allowed, strict=True)]
        nested.append(stages[0].restrict(keep))
    return nested


def pruned_alike(args: Args, nested: Sequence[Space], data: TrainVal, folder: Path, seed: int, pad: Path) -> Supernet:
    """A supernet trained as PAD's, on other spaces; its first stage is PAD's own."""
    model = None
    for number, (space, epochs) in enumerate(zip(nested, args.epochs, strict=True), start=1):
        here = pad / "supernet-1" if number == 1 else folder / f"supernet-{number}"
        fit = FitConfig(epochs, lr=0.08 if number == 1 else 0.016, seed=seed, augment=False)
        cfg = spos.Config(fit, recalibration=scoring().recalibration)
        model = spos.run(space, data, cfg, here, CPU, args.quiet, inherit=model)
    return model


def draw(space: Space, n: int, key: Sequence[int]) -> list[Arch]:
    """Up to n distinct random networks."""
    rng = np.random.default_rng(key)
    if space.size <= 4096:
        archs = space.enumerate()
        return [archs[i] for i in rng.permutation(len(archs))[:n]]
    return list(dict.fromkeys(space.sample(rng) for _ in range(20 * n)))[:n]


def own_tau(evaluator, archs: Sequence[Arch], alone: np.ndarray) -> dict | None:
    """τ on a supernet's own networks; None for fewer than three."""
    if len(archs) < 3:
        return None
    return dataclasses.asdict(ranking.rank(evaluator(archs), alone.mean(axis=1)))


def summarise(results: Sequence[dict]) -> dict:
    """Mean and standard deviation over the supernet seeds."""

    def taus(rows: Sequence[dict | None]) -> str:
        values = [row["tau"] for row in rows if row is not None and row["tau"] is not None]
        return _common.mean_sd(values) if values else "—"

    def over(part: str) -> dict[str, str]:
        return {name: taus([result[part].get(name) for result in results]) for name in results[0][part]}

    def networks(part: str) -> dict[str, str]:
        values = {name: [v for result in results for v in result[part][name]] for name in results[0][part]}
        return {name: _common.mean_sd(of, 100) for name, of in values.items()}

    return {
        "tau, common set": over("common_set"),
        "tau beyond multiply-adds, common set": over("common_set_beyond_multiply_adds"),
        "tau, own networks": over("own_front"),
        "paired difference of tau, per seed": {
            name: [ranking.show(*result["paired_difference_of_tau"][name]) for result in results]
            for name in results[0]["paired_difference_of_tau"]
        },
        "networks in the space": {
            name: [result["space_size"][name] for result in results] for name in results[0]["space_size"]
        },
        "random networks alone, %": networks("random_networks_alone"),
        "random networks one-shot, %": networks("random_networks_one_shot"),
        "best of the front alone, %": {
            name: _common.mean_sd([result["best_of_front_alone"][name] for result in results], 100)
            for name in results[0]["best_of_front_alone"]
        },
    }


def show(summary: dict) -> None:
    for title, rows in summary.items():
        table = Table(title=title)
        table.add_column("")
        table.add_column("", justify="right")
        for name, value in rows.items():
            table.add_row(name, value if isinstance(value, str) else ", ".join(map(str, value)))
        _cli.console.print(table)


if __name__ == "__main__":
    _cli.main(run, Args)
