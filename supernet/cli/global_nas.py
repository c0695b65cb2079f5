"""Efficient Global NAS: find depth, width, operations and kernels of a plain network, then train it."""

from __future__ import annotations

import dataclasses
import functools
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.table import Table

from latency.on_demand import OnDemandTable
from search import efficient_global_run
from search.drawing import Block, draw
from search.efficient_global import PRESETS, Candidate, Config, EfficientGlobal
from supernet import families, files
from supernet.cli import common
from supernet.data import NAMES, sets
from supernet.errors import UserError
from supernet.families import sep_conv
from supernet.progress import shown
from supernet.space import Arch, Space
from supernet.training import defaults, standalone
from supernet.training.evaluation import evaluate
from supernet.training.loop import FitConfig

SMALL_LIMIT = 10_000


@dataclass(frozen=True)
class Args:
    run: Path = Path("runs/global-nas")
    """Folder of the run; the same command continues a run that was stopped."""
    data: Annotated[str | None, tyro.conf.arg(metavar="|".join(NAMES))] = None
    """Images; fashion-mnist where it can be had, else the bundled digits."""
    data_root: Path = Path("data")
    """Where image sets lie, or the folder that holds train/ and val/ for --data folder."""
    preset: Literal["small", "tiny", "mobile"] = "small"
    """Bounds and epochs: the paper's tiny or mobile (GPU-days), or small ones for two cores."""
    depth: tuple[int, int] | None = None
    """Fewest and most layers; that of the preset."""
    width: tuple[int, int] | None = None
    """Fewest and most channels at full resolution; that of the preset."""
    epochs: int | None = None
    """Of the first candidate; each layer more adds 1, each step of width 2. That of the preset."""
    micro_epochs: int | None = None
    """Of candidates for operations and kernels; that of the preset."""
    flops_max: float = math.inf
    """Bound on multiply-adds: a candidate beyond it is not trained."""
    params_max: float = math.inf
    """Bound on parameters."""
    latency_max: float = math.inf
    """Bound on the predicted latency in ms on this machine: layers are measured as they come up."""
    final_epochs: int = 30
    """Of the found network (the paper: 600); 0 leaves the training out."""
    macro_width: bool = False
    """Train the found network at the width of the macro search, as the paper's reported networks."""
    batch_size: int = 64
    """Images per step."""
    lr: float = 0.025
    """Peak learning rate."""
    cutout: int | None = None
    """Side of the blanked square in pixels; 16, at most 4/7 of the image."""
    augment: bool | None = None
    """Random crops, flips (not of characters) and cutout; the small preset leaves them out below 30 epochs."""
    limit: int | None = None
    """Train on this many images only, stratified; 10000 of the small preset, which would take hours on more."""
    resolution: int | None = None
    """Height and width in pixels, for --data folder; 224."""
    seed: int = 0
    """Of the split, the weights and the augmentation."""
    device: str | None = None
    """cpu, cuda, …; CUDA where there is one."""
    restart: bool = False
    """Throw the run in --run away and start again."""
    quiet: bool = False
    """No progress."""


def run(args: Args) -> None:
    device = defaults.device(args.device)
    name, reason = (args.data, "") if args.data else sets.default_name(args.data_root)
    limit = SMALL_LIMIT if args.limit is None and args.preset == "small" else args.limit
    images = sets.open_train(name, args.data_root, seed=args.seed, resolution=args.resolution, workers=0, limit=limit)
    images.train.steps(args.batch_size, drop_last=True)
    cutout = min(16, images.resolution * 4 // 7) if args.cutout is None else args.cutout
    images = dataclasses.replace(images, train=images.train.with_cutout(cutout))
    config = configure(args)
    image = (images.channels, images.resolution, images.classes)

    ignored = ("run", "data_root", "final_epochs", "macro_width", "device", "restart", "quiet")
    settings = {k: v for k, v in dataclasses.asdict(args).items() if k not in ignored}
    settings |= {"data": name, "limit": limit, "cutout": cutout, **dataclasses.asdict(config)}
    settings |= {k: v if math.isfinite(v) else None for k, v in settings.items() if k.endswith("_max")}
    controller = make_controller(args, config, image)  # refuses impossible bounds before anything is written
    efficient_global_run.prepare(args.run, settings, args.restart)
    common.console.print(
        f"{config.depth[0]} to {config.depth[1]} layers, {config.width[0]} to {config.width[1]} channels; "
        f"[bold]{name}[/bold]{reason and f' ({reason})'}: {len(images.train):,} training, {len(images.val):,} "
        f"validation images, {images.channels}×{images.resolution}²; {args.run}",
        highlight=False,
    )
    if math.isfinite(args.latency_max):
        controller = make_controller(args, config, image, latency(args, config, image))

    def train(candidate: Candidate, folder: Path, label: str) -> tuple[float, float]:
        space, arch = network(candidate, image)
        options = {"kernels": defaults.kernels(device), "label": label, "progress": shown(not args.quiet)}
        standalone.train(space, arch, images, fit_config(args, candidate.epochs), folder, device, **options)
        log = files.JsonLines(folder / "metrics.jsonl").read()
        return tuple(100 * max(line[key] for line in log) for key in ("accuracy", "val_accuracy"))

    found = efficient_global_run.search(controller, args.run, train)
    report(args, controller, found, image)
    if args.final_epochs:
        finish(args, images, name, controller, image, device)
    if args.final_epochs < 600:
        common.next_command(command(dataclasses.replace(args, final_epochs=600)))
    else:
        common.next_command(f"python tools/export.py --run {args.run} --pick {final_folder(args).name}")


def command(args: Args) -> str:
    """The command line of these arguments."""
    words = ["python", "tools/global_nas.py"]
    for field in dataclasses.fields(args):
        value, flag = getattr(args, field.name), field.name.replace("_", "-")
        if value == field.default or field.name == "restart":
            continue
        if isinstance(value, bool) and field.default is not None:
            words.append(f"--{'' if value else 'no-'}{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)


def configure(args: Args) -> Config:
    """The preset with what the command line says."""
    if args.final_epochs < 0:
        raise UserError(f"--final-epochs {args.final_epochs}: expected at least 0")
    given = {name: getattr(args, name) for name in ("depth", "width", "epochs", "micro_epochs")}
    return dataclasses.replace(PRESETS[args.preset], **{k: v for k, v in given.items() if v is not None})


def network(candidate: Candidate, image: tuple[int, int, int]) -> tuple[Space, Arch]:
    """The candidate as the rest of the project knows networks."""
    return sep_conv.space(candidate.depth, candidate.width, *image), sep_conv.arch(candidate.ops, candidate.kernels)


def make_controller(
    args: Args, config: Config, image: tuple[int, int, int], table: OnDemandTable | None = None
) -> EfficientGlobal:
    """The search with its costs; without a table no bound on the latency."""

    @functools.cache
    def params(candidate: Candidate) -> int:
        return families.params(*network(candidate, image))

    costs = {"multiply-adds": lambda c: families.flops(*network(c, image)), "parameters": params}
    bounds = {"multiply-adds": args.flops_max, "parameters": args.params_max}
    if table is not None:
        costs["latency in ms"] = lambda c: table.predict(families.lower(*network(c, image)))
        bounds["latency in ms"] = args.latency_max
    return EfficientGlobal(config, params, costs, bounds)


def latency(args: Args, config: Config, image: tuple[int, int, int]) -> OnDemandTable:
    """Latencies on this machine, kept in the run."""
    corners = [
        (config.depth[0], config.width[0]),
        (config.depth[0], config.width[1]),
        (2 * config.depth[0], config.width[0]),
    ]
    networks = [(sep_conv.space(*corner, *image), (0,) * corner[0]) for corner in corners]
    return OnDemandTable(args.run / "lut.json", networks, shown(not args.quiet))


def fit_config(args: Args, epochs: int) -> FitConfig:
    """§4.1: SGD, momentum .9, weight decay 3e-4, a cosine to 0; the authors' code clips gradients at 5."""
    return FitConfig(
        epochs,
        args.batch_size,
        args.lr,
        schedule="cosine",
        weight_decay=3e-4,
        label_smoothing=0.0,
        clip=5.0,
        augment=defaults.augments(args.augment, epochs) if args.preset == "small" else args.augment is not False,
        seed=args.seed,
    )


def report(args: Args, controller: EfficientGlobal, found: Candidate, image: tuple[int, int, int]) -> None:
    """``arch.json``, ``space.json`` and the picture of what was found."""
    space, arch = network(found, image)
    files.write_json(args.run / "space.json", space.to_json())
    counts = {"params": families.params(space, arch), "flops": families.flops(space, arch)}
    files.write_json(
        args.run / "arch.json",
        {
            "schema": 1,
            "space": {"name": space.name, "fingerprint": space.fingerprint},
            "arch": list(arch),
            "found": dataclasses.asdict(found),
            "macro": dataclasses.asdict(controller.macro),
            "trained": len(controller.records),
            "skipped": len(controller.skipped),
            "epochs": sum(record.candidate.epochs for record in controller.records),
            **counts,
        },
    )
    show(controller, image)
    picture = args.run / "network.png"
    draw(picture, {f"L {found.depth} C {found.width}": drawn(space, arch)})
    common.console.print(
        f"found [bold]{found.describe()}[/bold]: {counts['params'] / 1e3:.1f} k parameters, "
        f"{counts['flops'] / 1e6:.2f} M multiply-adds, after {len(controller.records)} candidates → "
        f"{args.run / 'arch.json'}, {picture}",
        highlight=False,
    )


def show(controller: EfficientGlobal, image: tuple[int, int, int]) -> None:
    """How the network changed from phase to phase; accuracies compare within a phase, where epochs are alike."""
    table = Table(title="accepted at the end of each phase")
    for column in ("", "network", "k params", "MFLOPs", "epochs", "val %"):
        table.add_column(column, justify="left" if column in ("", "network") else "right", no_wrap=column != "network")
    for name, record in controller.accepted.items():
        trained = network(record.candidate, image)
        counts = f"{families.params(*trained) / 1e3:.1f}", f"{families.flops(*trained) / 1e6:.2f}"
        accuracy = f"{record.val_accuracy:.2f}"
        table.add_row(name, record.candidate.describe(), *counts, str(record.candidate.epochs), accuracy)
    common.console.print(table)


def drawn(space: Space, arch: Arch) -> list[Block]:
    """The layers between stem and head, to be drawn."""
    specs = families.layout(space).pick(arch)[1:-1]
    return [Block(s.out_size, s.out_channels, f"{s.op.capitalize()} {s.kernel}×{s.kernel}") for s in specs]


def final_folder(args: Args) -> Path:
    """Where the found network is trained."""
    return args.run / f"final-{args.final_epochs}{'-macro-width' if args.macro_width else ''}"


def finish(
    args: Args,
    images: sets.TrainVal,
    name: str,
    controller: EfficientGlobal,
    image: tuple[int, int, int],
    device: torch.device,
) -> None:
    """Train the found network from scratch; the test set is opened once, after its last epoch."""
    found = controller.found
    if args.macro_width:
        found = dataclasses.replace(found, width=controller.macro.width)
    folder = final_folder(args)
    space, arch = network(found, image)
    result = folder / "result.json"
    if not result.exists():
        options = {"kernels": defaults.kernels(device), "label": folder.name, "progress": shown(not args.quiet)}
        cfg = fit_config(args, args.final_epochs)
        trained, last = standalone.train(space, arch, images, cfg, folder, device, **options)
        test = sets.open_test(name, args.data_root, resolution=args.resolution)
        accuracy = evaluate(trained, test.batches(512, seed=0, epoch=0, augment=False, drop_last=False))
        row: dict[str, Any] = {"found": dataclasses.asdict(found), "params": families.params(space, arch)}
        row |= {"val_accuracy": last["val_accuracy"], "test_accuracy": accuracy, "test_images": len(test)}
        files.write_json(result, row)
    row = files.read_json(result, "result", "delete it and run the same command again")
    common.console.print(
        f"{found.describe()} after {args.final_epochs} epochs: [bold]{100 * row['test_accuracy']:.2f} %[/bold] of "
        f"{row['test_images']:,} test images, {row['params'] / 1e3:.1f} k parameters → {folder}",
        highlight=False,
    )


def main() -> None:
    """The command line."""
    common.main(run, Args)
