"""Train architectures of the front alone, beside random ones of the same window, and test each of them once."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from latency import runtimes
from latency.table import LatencyTable
from supernet import families, files, parallel
from supernet.cli import common, tables
from supernet.errors import UserError
from supernet.model import load_network
from supernet.progress import shown
from supernet.space import Arch, Space
from supernet.training import defaults, standalone
from supernet.training.evaluation import evaluate
from supernet.training.loop import FitConfig


@dataclass(frozen=True)
class Args:
    pick: str = "best"
    """best, knee, all, or the number of an architecture in the front."""
    run: Path = Path("runs/default")
    """Folder of the search; results go into RUN/PICK."""
    controls: int = 4
    """Random architectures of the same window to train beside it."""
    epochs: int = 12
    """Passes over the training images (SPOS on ImageNet: 240); 0 with --inherit tests the weights as they are."""
    batch_size: int = 64
    """Images per step."""
    lr: float | None = None
    """Peak learning rate; 0.2 · sqrt(batch/64) up to 0.5."""
    clip: float = 0.0
    """Largest gradient norm; 0 is off."""
    inherit: bool = False
    """Start from the supernet's weights instead of from scratch."""
    augment: bool | None = None
    """Random crops and flips; on from 30 epochs on: a short training does better without."""
    limit: int | None = None
    """Train on this many images only, stratified."""
    seed: int = 0
    """Of the weights and the augmentation."""
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

    name: str
    arch: Arch
    folder: Path
    threads: int


def run(args: Args) -> None:
    if args.epochs == 0 and not args.inherit:
        raise UserError("--epochs 0 trains nothing: expected --inherit with it, or at least one epoch")
    space = common.load_space(args.run)
    front = common.load_front(args.run, space)
    table = args.run / "lut.json"
    lut = LatencyTable.load(table, space) if table.exists() else None  # a DSNAS run may have none
    controls = {f"random-{i}": entry for i, entry in enumerate(front["random"][: args.controls])}
    entries = {**pick(args.pick, front), **controls}
    if lut is not None:
        predicted = {
            n: lut.predict(layer.key for layer in families.lower(space, e["arch"])) for n, e in entries.items()
        }
        entries = {name: {"latency_ms": predicted[name], **entry} for name, entry in entries.items()}
    device = defaults.device(args.device)
    at_once = min(args.jobs, len(entries)) if device.type == "cpu" else 1
    threads = max(1, (os.cpu_count() or 1) // at_once)
    jobs = [Job(name, space.check(entry["arch"]), args.run / name, threads) for name, entry in entries.items()]
    for job in jobs:
        prepare(args, job)

    results = train_all(args, jobs, at_once)
    rows = {job.name: {**entries[job.name], **results[job.name]} for job in jobs}
    if lut is not None:
        for name, ms in measure_all(space, jobs, lut).items():
            rows[name]["measured_latency_ms"] = ms
    for job in jobs:
        files.write_json(job.folder / "result.json", {"settings": settings(args), **rows[job.name]})
    show(args, rows, list(controls))


def pick(choice: str, front: dict) -> dict[str, dict]:
    """The entries of the front that ``choice`` names, by the name of their folder."""
    entries = front["front"]
    if choice in ("best", "knee"):
        return {choice: entries[front[choice]]}
    if choice == "all":
        return {f"front-{i}": entry for i, entry in enumerate(entries)}
    if choice.isdigit() and int(choice) < len(entries):
        return {f"front-{choice}": entries[int(choice)]}
    raise UserError(f"--pick {choice}: expected best, knee, all or a number from 0 to {len(entries) - 1}")


def settings(args: Args) -> dict[str, Any]:
    """What shapes a trained network: another value is another training."""
    names = ("epochs", "batch_size", "lr", "clip", "inherit", "augment", "limit", "seed")
    return {name: value for name, value in asdict(args).items() if name in names}


def prepare(args: Args, job: Job) -> None:
    """An empty folder, or one that holds the same training; an older one of other settings is set aside."""
    wanted = {**settings(args), "arch": list(job.arch)}
    config = job.folder / "config.json"
    try:
        known = files.same_config(config, wanted, "it is set aside")
    except UserError:
        aside = job.folder.with_name(f"{job.folder.name}-before-{time.strftime('%Y%m%d-%H%M%S')}")
        job.folder.rename(aside)
        common.console.print(f"{job.folder} held another training: moved to {aside}", highlight=False)
        known = False
    if not known:
        files.write_json(config, wanted)


def train_all(args: Args, jobs: Sequence[Job], at_once: int) -> dict[str, dict]:
    """Train the networks in ``at_once`` processes; one bar over all their epochs."""
    if at_once == 1:
        return {job.name: train_one(args, job, args.quiet) for job in jobs}
    logs = [files.JsonLines(job.folder / "metrics.jsonl") for job in jobs]
    return parallel.run(
        train_one,
        {job.name: (args, job, True) for job in jobs},
        at_once,
        shown(not args.quiet)("retrain", args.epochs * len(jobs), unit="epochs"),
        lambda: sum(len(log.read()) for log in logs),
    )


def train_one(args: Args, job: Job, quiet: bool) -> dict:
    """Train and test one network. Returns validation and test accuracy in [0, 1]."""
    defaults.keep_memory()
    device = defaults.device(args.device)
    if device.type == "cpu":
        torch.set_num_threads(job.threads)
    space = common.load_space(args.run)
    images = common.open_images(args.run, args.data_root, limit=args.limit)
    supernet = common.load_supernet(args.run, space, device)
    cfg = FitConfig(
        args.epochs,
        args.batch_size,
        args.lr if args.lr is not None else defaults.learning_rate(args.batch_size),
        schedule="cosine",
        clip=args.clip,
        seed=args.seed,
        augment=defaults.augments(args.augment, args.epochs),
    )
    network, last = standalone.train(
        space,
        job.arch,
        images,
        cfg,
        job.folder,
        device,
        kernels=defaults.kernels(device),
        supernet=supernet if args.inherit else None,
        eps=supernet.options["eps"],
        label=job.name,
        progress=shown(not quiet),
    )
    test = common.open_test_images(args.run, args.data_root)
    accuracy = evaluate(network, test.batches(512, seed=0, epoch=0, augment=False, drop_last=False))
    return {"val_accuracy": last["val_accuracy"], "test_accuracy": accuracy, "test_images": len(test)}


def measure_all(space: Space, jobs: Sequence[Job], lut: LatencyTable) -> dict[str, float]:
    """Latency of the whole networks in ms, measured as the table was; none where that is not possible here."""
    shape = (space.channels, space.resolution, space.resolution)
    try:
        samples = runtimes.measure_like(
            lut, lambda kernels: [(job.name, load_network(job.folder, kernels), shape) for job in jobs]
        )
    except UserError as error:
        common.console.print(f"latency is not measured: {error}", highlight=False, soft_wrap=True)
        return {}
    return {name: sample.median_ms for name, sample in samples.items()}


def show(args: Args, rows: dict[str, dict], controls: Sequence[str]) -> None:
    """One table: the picked networks, and mean ± standard deviation of the random ones."""
    columns = [c for c in tables.columns(rows.values()) if c[1] != "val_accuracy"]  # as wide as a terminal
    table = Table("", title=f"{'trained alone' if args.epochs else 'weights of the supernet'}, tested once")
    for column in columns:
        table.add_column(column[0], justify="right")
    for name, row in rows.items():
        if name not in controls:
            table.add_row(name, *(form.format(scale * row[key]) for _, key, scale, form in columns))
    if len(controls) > 1:
        cells = []
        for _, key, scale, form in columns:
            values = np.array([scale * rows[name][key] for name in controls])
            cells.append(f"{form.format(values.mean())} ± {form.format(values.std(ddof=1))}")
        table.add_row(f"{len(controls)} random", *cells, end_section=True)
    common.console.print(table)
    if len(controls) > 1:
        test = np.array([100 * rows[name]["test_accuracy"] for name in controls])
        first = next(name for name in rows if name not in controls)
        accuracy = 100 * rows[first]["test_accuracy"]
        common.console.print(
            f"{first}: {accuracy - test.mean():+.2f} points of test accuracy against the mean of {len(controls)} "
            f"random architectures of the same window, {accuracy - test.max():+.2f} against the best of them",
            highlight=False,
        )
    common.console.print(f"→ {args.run / next(iter(rows))}", highlight=False)
    common.next_command(f"python tools/report.py{common.run_flag(args.run)}")


def main() -> None:
    """The command line."""
    common.main(run, Args)
