"""How well a supernet ranks architectures: train some of them alone, and compare with their one-shot accuracies.

Both are measured on validation images, one half of the split each; the test set stays closed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from search import ranking
from search.evaluator import Evaluator, Mode
from supernet import families, files, parallel
from supernet.cli import common
from supernet.data.images import ImageSet
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.methods import spos
from supernet.model import Network
from supernet.progress import shown
from supernet.space import Arch, Space
from supernet.training import defaults, standalone
from supernet.training.evaluation import evaluate
from supernet.training.loop import FitConfig


@dataclass(frozen=True)
class Args:
    pick: str = "uniform"
    """uniform (random architectures of the space), front (of evolve.py, evenly spaced), or a .json list of lists."""
    run: Path = Path("runs/default")
    """Folder of the trained supernet; results go into RUN/rank."""
    n: int = 32
    """How many architectures; fewer than 32 cannot tell much."""
    bn: tuple[Mode, ...] = ("recalibrated",)
    """BN statistics of the one-shot accuracies; several to compare them."""
    epochs: int = 12
    """Passes over the training images, for each architecture alone."""
    seeds: int = 1
    """Trainings of each architecture, averaged; with two or more the ceiling is stated."""
    batch_size: int = 64
    """Images per step."""
    lr: float | None = None
    """Peak learning rate; 0.2 · sqrt(batch/64) up to 0.5."""
    limit: int | None = None
    """Train on this many images only, stratified."""
    recalibration: tuple[int, int] = (8, 128)
    """Batches and images per batch that BN is recalibrated with."""
    seed: int = 0
    """Of the choice of architectures, and the first one of the trainings."""
    jobs: int = os.cpu_count() or 1
    """Networks trained side by side, one thread each, on the CPU."""
    data_root: Path | None = None
    """Where image sets lie; where the supernet's training found them."""
    device: str | None = None
    """cpu, cuda, …; CUDA where there is one."""
    quiet: bool = False
    """No progress."""


@dataclass(frozen=True)
class Job:
    """One network to train, in a process of its own."""

    arch: Arch
    seed: int
    folder: Path


def run(args: Args) -> None:
    space = common.load_space(args.run)
    device = defaults.device(args.device)
    supernet = common.load_supernet(args.run, space, device)
    archs = pick(args, space)
    images = common.open_images(args.run, args.data_root)
    scoring, _ = halves(images.val)
    folder = args.run / "rank"

    recalibration = spos.recalibration_images(images, *args.recalibration)
    batches = list(scoring.batches(512, seed=0, epoch=0, augment=False, drop_last=False))
    one_shot = {mode: Evaluator(supernet, recalibration, batches, args.jobs, mode)(archs) for mode in args.bn}
    trained = train_all(args, archs, folder)
    truth = trained.mean(axis=1)
    flops = [families.flops(space, arch) for arch in archs]

    rows = {f"one-shot, BN {mode}": ranking.rank(scores, truth) for mode, scores in one_shot.items()}
    if len(set(flops)) > 1:
        rows["multiply-adds"] = dataclasses.replace(ranking.rank(flops, truth), gap=0.0)
    if args.seeds > 1:
        rows["ceiling: one training seed against the others"] = ranking.rank(trained[:, 0], trained[:, 1:].mean(axis=1))
    for mode, scores in one_shot.items():
        title = f"{space.name}, BN {mode}, {args.epochs} epochs alone"
        ranking.plot(folder / f"{mode}.png", scores, truth, rows[f"one-shot, BN {mode}"], title)
    files.write_json(
        folder / "rank.json",
        {
            "schema": 1,
            "space": {"name": space.name, "fingerprint": space.fingerprint},
            "pick": args.pick,
            "budget": budget(args),
            "archs": [list(arch) for arch in archs],
            "flops": flops,
            "one_shot": one_shot,
            "trained_alone": trained.tolist(),
            "rankings": {name: dataclasses.asdict(row) for name, row in rows.items()},
        },
    )
    show(rows, space)
    common.console.print(f"→ {folder / 'rank.json'}, {folder / (args.bn[0] + '.png')}", highlight=False)


def pick(args: Args, space: Space) -> list[Arch]:
    """Distinct architectures: at most ``n``, at least three."""
    if args.pick == "uniform":
        rng = np.random.default_rng([args.seed, 3])
        archs = dict.fromkeys(space.sample(rng) for _ in range(50 * args.n))
        archs = list(archs)[: args.n]
    elif args.pick == "front":
        found = common.load_front(args.run, space)["front"]
        places = np.unique(np.linspace(0, len(found) - 1, min(args.n, len(found))).round().astype(int))
        archs = [space.check(found[i]["arch"]) for i in places]
    elif args.pick.endswith(".json"):
        listed = files.read_json(Path(args.pick), "list of architectures", "write one: [[0, 1, …], …]")
        try:
            archs = list(dict.fromkeys(space.check(arch) for arch in listed))[: args.n]
        except (TypeError, ValueError) as error:
            raise UserError(f"{args.pick}: expected a list of architectures [[0, 1, …], …] ({error})") from error
    else:
        raise UserError(f"--pick {args.pick}: expected uniform, front, or a .json file of architectures")
    if len(archs) < 3:
        raise UserError(f"--pick {args.pick} gives {len(archs)} architectures; a ranking needs three or more")
    return archs


def halves(val: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Two disjoint halves of the validation split: for one-shot accuracies, and for networks trained alone."""
    first = val.subset(len(val) // 2, seed=0)
    return first, val.take(np.flatnonzero(~np.isin(val.index, first.index)))


def budget(args: Args) -> dict[str, Any]:
    """What shapes a stand-alone accuracy besides the architecture and the seed."""
    return {name: getattr(args, name) for name in ("epochs", "batch_size", "lr", "limit")}


def train_all(args: Args, archs: Sequence[Arch], folder: Path) -> np.ndarray:
    """Validation accuracies [architectures, seeds]; those that ``trained.jsonl`` knows are not trained again."""
    cache = files.JsonLines(folder / "trained.jsonl")
    spent = json.loads(json.dumps(budget(args)))
    known = {(tuple(line["arch"]), line["seed"]): line for line in cache.read() if line["budget"] == spent}
    jobs = {}
    for arch in archs:
        for seed in range(args.seed, args.seed + args.seeds):
            if (arch, seed) not in known:
                key = hashlib.sha256(json.dumps([list(arch), seed, spent]).encode()).hexdigest()[:16]
                jobs[key] = Job(arch, seed, folder / key)
    total = len(archs) * args.seeds

    def keep(key: str, accuracy: float) -> None:
        job = jobs[key]
        line = {"arch": list(job.arch), "seed": job.seed, "budget": spent, "val_accuracy": accuracy}
        cache.append(line)
        known[job.arch, job.seed] = line
        shutil.rmtree(job.folder)

    bar = shown(not args.quiet)("rank", total, done=total - len(jobs), unit="networks")
    device = defaults.device(args.device)
    at_once = args.jobs if device.type == "cpu" else 1
    if jobs:
        arguments = {key: (args, job) for key, job in jobs.items()}
        parallel.run(train_one, arguments, at_once, bar, lambda: len(known.keys() & wanted(args, archs)), keep)
    seeds = range(args.seed, args.seed + args.seeds)
    return np.array([[known[arch, seed]["val_accuracy"] for seed in seeds] for arch in archs])


def wanted(args: Args, archs: Sequence[Arch]) -> set[tuple[Arch, int]]:
    return {(arch, seed) for arch in archs for seed in range(args.seed, args.seed + args.seeds)}


def train_one(args: Args, job: Job) -> float:
    """Train one network alone; its accuracy on the second half of the validation split."""
    defaults.keep_memory()
    device = defaults.device(args.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    space = common.load_space(args.run)
    images = common.open_images(args.run, args.data_root, limit=args.limit)
    cfg = FitConfig(
        args.epochs,
        args.batch_size,
        args.lr if args.lr is not None else defaults.learning_rate(args.batch_size),
        schedule="cosine",
        seed=job.seed,
        augment=defaults.augments(None, args.epochs),
    )
    network, _ = standalone.train(space, job.arch, images, cfg, job.folder, device, kernels=defaults.kernels(device))
    return truth(network, images)


def truth(network: Network, images: TrainVal) -> float:
    """Accuracy on the half of the validation split that no one-shot accuracy is measured on."""
    _, judging = halves(images.val)
    return evaluate(network, judging.batches(512, seed=0, epoch=0, augment=False, drop_last=False))


def show(rows: dict[str, ranking.Ranking], space: Space) -> None:
    first = next(iter(rows.values()))
    table = Table(title=f"{space.name}: {first.n} architectures, {first.level:.0%} intervals over architectures")
    for column in ("ranked by", "Kendall τ", "Spearman ρ", "alone − one-shot, points"):
        table.add_column(column, justify="left" if column == "ranked by" else "right")
    for name, row in rows.items():
        gap = f"{100 * row.gap:+.2f}" if name.startswith("one-shot") else ""
        table.add_row(name, ranking.show(row.tau, row.tau_interval), ranking.show(row.rho, row.rho_interval), gap)
    common.console.print(table)


def main() -> None:
    """The command line."""
    common.main(run, Args)
