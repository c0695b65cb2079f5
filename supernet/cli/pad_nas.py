"""PAD-NAS: train a supernet, search it, prune the operations that good networks do without, fine-tune, and again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from supernet.cli import common, searching
from supernet.errors import UserError

if TYPE_CHECKING:
    from search.pad_nas import Stage
    from supernet.data.sets import TrainVal
    from supernet.runs import RunFolder
    from supernet.space import Space

VARIANTS = {"basic": "mobile", "large": "mobile-large", "v3": "mobile-v3"}


@dataclass(frozen=True)
class Args(common.Images, searching.SearchArgs):
    run: Path = Path("runs/pad_nas")
    """Run folder; the same command continues a run that was stopped."""
    space: str = "basic"
    """basic, large or v3: the paper's operation sets, for small images their small presets; or any other space of
    layers by name, a space .json, or FILE.py:function."""
    epochs: tuple[int, ...] = (12, 8, 4)
    """Epochs of the first supernet, then of each fine-tuning: M is one more (the paper: 120 80 40)."""
    batch_size: int = 64
    """Images per step (the paper: 1024)."""
    lr: float | None = None
    """Peak learning rate of the first supernet; defaults to 0.2 · sqrt(batch size / 64), at most 0.5. Fine-tuning
    takes a fifth of it."""
    threshold: float = 0.01
    """Operations of at most this probability are removed."""
    retrain: int = 0
    """Epochs to train the best network of the last front alone, at the end; 0 leaves that to retrain.py."""


def run(args: Args) -> None:
    from search import pad_nas
    from search.ces import CES, CESConfig
    from supernet.training import defaults
    from supernet.training.loop import FitConfig

    if args.retrain < 0:
        raise UserError(f"--retrain {args.retrain}: expected a number of epochs, or 0")
    args = dataclasses.replace(args, objectives=searching.wanted(args))  # recorded in full
    device = defaults.device(args.device)
    name, _, images = common.open_images(args)
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
    made_with = {"data": images.identity}
    args = dataclasses.replace(args, data=name)
    folder, config = common.open_run(args), configuration(args, settings, space)
    if folder.config_path.exists():
        folder.require_settings(config)
    with folder.lock():
        # All that can be wrong is found before any training: the table, its layers, the window.
        if "latency" in searching.wanted(args) and not args.lut and not folder.lut_path.exists():
            measure(args, space, folder)
        luts = searching.tables(args, folder.lut_path, space)
        costs = searching.costs(space, luts)
        bounds = searching.bounds(args, space, luts, costs)
        objectives = searching.objectives(args, luts)
        CES(space, costs, bounds, objectives, cfg.ces)
        if folder.begin(config, made_with=made_with):
            folder.write_space(space)
        stages = []
        shared = {**settings, "made_with": made_with}
        progress = args.progress
        images = folder.decoded(images)  # opened once, for all supernets
        for stage in pad_nas.run(space, images, cfg, costs, bounds, objectives, folder.path, device, shared, progress):
            if luts:
                stage.found.folder.write_lut(luts["latency"].to_json())
            searching.write(stage.found, stage.random, luts)
            stages.append(stage)
    show(stages)
    last = dataclasses.replace(args, run=stages[-1].folder)
    if args.retrain:
        retrain(args, stages[-1])
        common.next_command("report", last)
    else:
        common.next_command("retrain", last, "--pick", "best")


def measure(args: Args, space: Space, folder: RunFolder) -> None:
    """A latency table of the space on this machine."""
    from latency import build
    from search.spread import calibration_archs

    archs = calibration_archs(space, build.FIT_ARCHS, 8, seed=0)
    job = build.default(space, archs, folder.converted_path, args.progress, common.warn)
    build.write(job.here(folder.lut_path), folder.lut_path)


def retrain(args: Args, stage: Stage) -> None:
    """Train the best network of the last front alone, beside random ones."""
    from supernet.cli import alone
    from supernet.retraining import Settings

    settings = Settings(args.retrain, args.batch_size, limit=args.limit)
    alone.train(
        common.open_run(dataclasses.replace(args, run=stage.folder)),
        settings,
        "best",
        4,
        device=args.device,
        at_once=args.workers,
        workers=args.workers,
        data_root=args.data_root,
        progress=args.progress,
    )


def find_space(args: Args, images: TrainVal) -> Space:
    """The operation set by its name in the paper, as the preset for these images; or what --space names."""
    from supernet import families, spaces

    name = args.space
    if name in VARIANTS:
        name = VARIANTS[name] + ("-small" if images.resolution < 96 else "")
    elif not (name.endswith(".json") or common.is_code(name) or name in spaces.presets()):
        raise UserError(f"--space {name}: expected {', '.join(VARIANTS)}, another space by name, a space .json or code")
    space = spaces.get(name, images.channels, images.resolution, images.classes)
    families.require_layers(space)
    return space


def configuration(args: Args, settings: dict, space: Space) -> dict:
    """All that shapes the run, in plain JSON, which has no infinity."""
    from latency.table import LatencyTable

    luts: list[str] = [LatencyTable.load(path).identity for path in args.lut]
    given = common.settings(args, "lut", "retrain")
    return {**given, **settings, "space": space.name, "fingerprint": space.fingerprint, "lut": luts}


def show(stages: list[Stage]) -> None:
    """One row for each supernet."""
    from rich.table import Table

    from search import pad_nas

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
    common.say(table)


def main() -> None:
    """The command line."""
    common.main(run, Args)
