"""Efficient Global NAS: find depth, width, operations and kernels of a plain network, then train it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from supernet.cli import common
from supernet.errors import UserError

if TYPE_CHECKING:
    from search.efficient_global import Candidate, Config, EfficientGlobal
    from search.plain_run import Image, Latency, PlainRun, Training

SMALL_LIMIT = 10_000  # images of the small preset, which would take hours on more


@dataclass(frozen=True)
class Args(common.NewRun):
    run: Path = Path("runs/global-nas")
    preset: Literal["small", "tiny", "mobile"] = "small"
    """Bounds and epochs: the paper's tiny or mobile (GPU-days), or small ones for two cores."""
    depth: tuple[int, int] | None = None
    """Fewest and most layers; defaults to the preset's."""
    width: tuple[int, int] | None = None
    """Fewest and most channels at full resolution; defaults to the preset's."""
    epochs: int | None = None
    """Epochs of the first candidate; each further layer adds 1, each step of width 2. Defaults to the preset's."""
    micro_epochs: int | None = None
    """Epochs of candidates for operations and kernels; defaults to the preset's."""
    flops_max: float = math.inf
    """Bound on multiply-adds: a candidate beyond it is not trained."""
    params_max: float = math.inf
    """Bound on parameters."""
    latency_max: float = math.inf
    """Bound on the predicted latency in ms on this machine: layers are measured as they come up."""
    final_epochs: int = 30
    """Epochs of the found network (the paper: 600); 0 leaves its training out."""
    macro_width: bool = False
    """Train the found network at the width of the macro search, as the paper's reported networks."""
    batch_size: int = 64
    """Images per step."""
    lr: float = 0.025
    """Peak learning rate."""
    cutout: int | None = None
    """Side of the blanked square in pixels; defaults to 16, at most 4/7 of the image."""
    augment: bool | None = None
    """Random crops, flips (not of characters) and cutout; the small preset leaves them out below 30 epochs."""
    limit: int | None = None
    """Train on a stratified subset of this many images; the small preset defaults to 10000."""


def run(args: Args) -> None:
    from search import plain_run
    from supernet.training import defaults

    device = defaults.device(args.device)
    if args.final_epochs < 0:
        raise UserError(f"--final-epochs {args.final_epochs}: expected at least 0")
    limit = SMALL_LIMIT if args.limit is None and args.preset == "small" else args.limit
    name, reason, images = common.open_images(dataclasses.replace(args, limit=limit))
    images.train.steps(args.batch_size, drop_last=True)
    cutout = min(16, images.resolution * 4 // 7) if args.cutout is None else args.cutout
    config = plain_run.configure(
        args.preset, depth=args.depth, width=args.width, epochs=args.epochs, micro_epochs=args.micro_epochs
    )
    settings = common.settings(args, "final_epochs", "macro_width")
    settings |= {"data": name, "limit": limit, "cutout": cutout, **dataclasses.asdict(config)}
    folder = common.open_run(args)
    job = plain_run.PlainRun(
        folder,
        dataclasses.replace(folder.decoded(images), train=images.train.with_cutout(cutout)),
        training(args),
        device,
        args.progress,
        common.tell,
    )
    bounds = (args.flops_max, args.params_max)
    # Refuses impossible bounds before anything is written.
    controller = plain_run.controller(config, job.image, *bounds)
    final = folder.final(args.final_epochs, "-macro-width" if args.macro_width else "")
    with folder.lock():
        folder.begin(settings, restart=args.restart, made_with={"data": images.identity})
        common.say(
            f"{config.depth[0]} to {config.depth[1]} layers, {config.width[0]} to {config.width[1]} channels; "
            f"{common.in_words(images, name, reason)}; {common.escape(str(args.run))}"
        )
        if math.isfinite(args.latency_max):
            latency = measured(config, job)
            controller = plain_run.controller(config, job.image, *bounds, args.latency_max, latency)
        found = job.search(controller)
        show(job, controller, found)
        if args.final_epochs:
            if args.macro_width and controller.macro is not None:
                found = dataclasses.replace(found, width=controller.macro.width)
            row = job.final(found, args.final_epochs, final, lambda: folder.test_images(args.data_root, args.workers))
            common.say(
                f"{found.describe()} after {args.final_epochs} epochs: [bold]{100 * row['test_accuracy']:.2f} %[/bold] "
                f"of {row['test_images']:,} test images, {row['params'] / 1e3:.1f} k parameters → "
                f"{common.escape(str(final.path))}"
            )
    if args.final_epochs < 600:
        common.next_command("global_nas", None, *words(dataclasses.replace(args, final_epochs=600)))
    else:
        common.next_command("export", args, after=("--pick", final.path.name))


def training(args: Args) -> Training:
    """How networks are trained; those of the papers' presets are always augmented unless the command line says no."""
    from search.plain_run import Training

    augment = args.augment if args.preset == "small" else args.augment is not False
    return Training(args.batch_size, args.lr, augment, args.seed)


def measured(config: Config, job: PlainRun) -> Latency:
    """Latencies of networks on this machine, measured as they come up and kept in the run."""
    from latency.on_demand import OnDemandTable
    from search.plain_run import corners
    from supernet.families import lower

    table = OnDemandTable(job.run.lut_path, corners(config, job.image), job.progress)
    return lambda space, arch: table.predict(lower(space, arch))


def words(args: Args) -> list[str]:
    """The options that are not defaults, as words of a command line."""
    found: list[str] = []
    for field in dataclasses.fields(args):
        value, flag = getattr(args, field.name), field.name.replace("_", "-")
        if value == field.default or field.name == "restart":
            continue
        if isinstance(value, bool) and field.default is not None:
            found.append(f"--{'' if value else 'no-'}{flag}")
        else:
            found += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return found


def show(job: PlainRun, controller: EfficientGlobal, found: Candidate) -> None:
    """How the network changed from phase to phase, and its picture."""
    from search.drawing import draw
    from search.plain_run import drawn, network
    from supernet import families

    space, arch = network(found, job.image)
    phases(controller, job.image)
    picture = job.run.network_picture
    draw(picture, {f"L {found.depth} C {found.width}": drawn(space, arch)})
    common.say(
        f"found [bold]{found.describe()}[/bold]: {families.params(space, arch) / 1e3:.1f} k parameters, "
        f"{families.flops(space, arch) / 1e6:.2f} M multiply-adds, after {len(controller.records)} candidates → "
        f"{common.escape(f'{job.run.arch_path}, {picture}')}"
    )


def phases(controller: EfficientGlobal, image: Image) -> None:
    """What each phase accepted last; accuracies compare within a phase, where epochs are alike."""
    from rich.table import Table

    from search.plain_run import network
    from supernet import families

    table = Table(title="accepted at the end of each phase")
    for column in ("", "network", "k params", "MFLOPs", "epochs", "val %"):
        table.add_column(column, justify="left" if column in ("", "network") else "right", no_wrap=column != "network")
    for name, record in controller.accepted.items():
        trained = network(record.candidate, image)
        counts = f"{families.params(*trained) / 1e3:.1f}", f"{families.flops(*trained) / 1e6:.2f}"
        accuracy = f"{record.val_accuracy:.2f}"
        table.add_row(name, record.candidate.describe(), *counts, str(record.candidate.epochs), accuracy)
    common.say(table)


def main() -> None:
    """The command line."""
    common.main(run, Args)
