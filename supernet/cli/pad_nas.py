"""PAD-NAS: train a supernet, search it, prune the operations that good networks do without, fine-tune, and again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from latency.table import LatencyTable
from search import pad_nas
from search.ces import CES, CESConfig
from supernet import files, spaces
from supernet.cli import build_lut, common, retrain, searching
from supernet.data import NAMES, sets
from supernet.errors import UserError
from supernet.progress import shown
from supernet.space import Space
from supernet.training import defaults
from supernet.training.loop import FitConfig

VARIANTS = {"basic": "mobile", "large": "mobile-large", "v3": "mobile-v3"}


@dataclass(frozen=True)
class Args(searching.SearchArgs):
    run: Path = Path("runs/pad_nas")
    """Folder of the run; the same command continues a run that was stopped."""
    data: Annotated[str | None, tyro.conf.arg(metavar="|".join(NAMES))] = None
    """Images; fashion-mnist where it can be had, else the bundled digits."""
    space: str = "basic"
    """basic, large or v3: the paper's operation sets, for small images their small presets; or a space .json."""
    epochs: tuple[int, ...] = (12, 8, 4)
    """Of the initial supernet, then of each fine-tuning: M is one more (the paper: 120 80 40)."""
    batch_size: int = 64
    """Images per step (the paper: 1024)."""
    lr: float | None = None
    """Peak rate of the initial supernet; 0.2 · sqrt(batch/64) up to 0.5. Fine-tuning takes a fifth of it."""
    threshold: float = 0.01
    """Operations of at most this probability are removed."""
    limit: int | None = None
    """Train on this many images only, stratified."""
    data_root: Path = Path("data")
    """Where image sets lie."""
    resolution: int | None = None
    """Height and width in pixels, for --data folder; 224."""
    retrain: int = 0
    """Epochs to train the best network of the last front alone, at the end; 0 leaves that to retrain.py."""


def run(args: Args) -> None:
    if args.retrain < 0:
        raise UserError(f"--retrain {args.retrain}: expected a number of epochs, or 0")
    device = defaults.device(args.device)
    name, _ = (args.data, "") if args.data else sets.default_name(args.data_root)
    images = sets.open_train(name, args.data_root, seed=args.seed, resolution=args.resolution, limit=args.limit)
    space = find_space(args, images)
    lr = args.lr if args.lr is not None else defaults.learning_rate(args.batch_size)
    augment = defaults.augments(None, max(args.epochs, default=0))
    cfg = pad_nas.Config(
        FitConfig(max(args.epochs, default=1), args.batch_size, lr, seed=args.seed, augment=augment),
        args.epochs,
        lr,
        fine_tune_lr=lr / 5,
        threshold=args.threshold,
        ces=CESConfig(args.population, args.iterations, seed=args.seed),
        scoring=searching.scoring(args),
        random=args.random,
        kernels=defaults.kernels(device),
    )
    settings = {"data": name, "seed": args.seed, "resolution": args.resolution, "limit": args.limit}
    settings |= {"batch_size": args.batch_size, "lr": lr, "augment": augment, "data_root": str(args.data_root)}
    config = configuration(args, settings, space)
    advice = "use another --run folder, or delete this one"
    known = files.same_config(args.run / "config.json", config, advice)

    # All that can be wrong is found before any training: the table, its layers, the window.
    if "latency" in args.objectives and not args.lut and not (args.run / "lut.json").exists():
        output = args.run / "lut.json"
        build_lut.write(build_lut.build(build_lut.Args(run=args.run, quiet=args.quiet), space, output), output)
    luts = searching.tables(args, args.run / "lut.json", space)
    costs = searching.costs(space, luts)
    bounds = searching.bounds(args, space, luts, costs)
    objectives = searching.objectives(args, luts)
    CES(space, costs, bounds, objectives, cfg.ces)
    if not known:
        files.write_json(args.run / "space.json", space.to_json())
        files.write_json(args.run / "config.json", config)

    stages = []
    for stage in pad_nas.run(
        space, images, cfg, costs, bounds, objectives, args.run, device, settings, shown(not args.quiet)
    ):
        if luts:
            files.write_json(stage.folder / "lut.json", luts["latency"].to_json())
        searching.write(stage.folder, stage.found, stage.random, luts)
        stages.append(stage)
    show(stages)
    if args.retrain:
        shared = {name: getattr(args, name) for name in ("batch_size", "limit", "data_root", "device", "quiet")}
        retrain.run(retrain.Args(run=stages[-1].folder, epochs=args.retrain, jobs=args.workers, **shared))
    else:
        common.next_command(f"python tools/retrain.py --pick best --run {stages[-1].folder}")


def find_space(args: Args, images: sets.TrainVal) -> Space:
    """The operation set by its name in the paper, as the preset for these images; or what --space names."""
    name = args.space
    if not name.endswith(".json") and name not in (*VARIANTS, *spaces.presets()):
        raise UserError(f"--space {name}: expected {', '.join(VARIANTS)}, or a space .json file")
    if name in VARIANTS:
        name = VARIANTS[name] + ("-small" if images.resolution < 96 else "")
    return spaces.get(name, images.channels, images.resolution, images.classes)


def configuration(args: Args, settings: dict, space: Space) -> dict:
    """All that shapes the run, in plain JSON, which has no infinity."""
    others = ("run", "data_root", "device", "workers", "quiet", "lut", "retrain")
    given = {name: value for name, value in dataclasses.asdict(args).items() if name not in others}
    finite = {name: None if value == math.inf else value for name, value in given.items()}
    luts = [identity(path) for path in args.lut]
    return {**finite, **settings, "space": space.name, "fingerprint": space.fingerprint, "lut": luts}


def identity(path: Path) -> str:
    """Tells a latency table from another: with it the run would be pruned in another way."""
    table = LatencyTable.load(path).to_json()
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:16]


def show(stages: list[pad_nas.Stage]) -> None:
    table = Table(title="PAD-NAS: one row per supernet, one-shot accuracies")
    for column in ("", "space", "operations", "best %", "random %", "training s", "search s"):
        table.add_column(column, justify="right" if column else "left")
    for stage in stages:
        random = [100 * record.accuracy for record in stage.random]
        table.add_row(
            stage.folder.name,
            pad_nas.size(stage.space),
            str(sum(map(len, stage.space.allowed))),
            f"{100 * max(record.accuracy for record in stage.found.search.front()):.2f}",
            f"{sum(random) / len(random):.2f}" if random else "",
            *(f"{stage.seconds[step]:.0f}" for step in ("training", "search")),
        )
    common.console.print(table)


def main() -> None:
    """The command line."""
    common.main(run, Args)
