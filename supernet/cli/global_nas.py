"""Efficient Global NAS: find depth, width, operations and kernels of a plain network, then train it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from supernet import metrics
from supernet.cli import common, opening, report, starting
from supernet.errors import UserError
from supernet.quantities import several


@dataclass(frozen=True)
class Search(common.Judged):
    """Options of what is searched."""

    topic: ClassVar[str] = "search"
    depth: Annotated[tuple[int, int] | None, common.UNSET] = None
    """Fewest and most layers; defaults to the preset's."""
    width: Annotated[tuple[int, int] | None, common.UNSET] = None
    """Fewest and most channels at full resolution; defaults to the preset's."""
    start_op: Literal["sep", "conv"] = "sep"
    """Operation of all layers of the macro search; the micro search tries the other one."""
    start_kernel: Literal[3, 7] = 3
    """Kernel of all layers of the macro search; the micro search tries 5."""
    operations: bool = True
    """Try operations in the micro search; else kernels alone."""


@dataclass(frozen=True)
class Training:
    """Options of how candidates are trained."""

    topic: ClassVar[str] = "training"
    epochs: Annotated[int | None, common.UNSET] = None
    """Epochs of the first candidate; each further layer adds 1, each step of width 2. Defaults to the preset's."""
    micro_epochs: Annotated[int | None, common.UNSET] = None
    """Epochs of candidates for operations and kernels; defaults to the preset's."""
    batch_size: int = 64
    """Images per step."""
    lr: float = 0.025
    """Peak learning rate."""
    decay: Annotated[Literal["all", "weights"] | None, common.UNSET] = None
    """What weight decay is of: all, as in the authors' code, or kernels and matrices alone; defaults to all, for runs
    of version 0.1 to what they have."""
    cutout: Annotated[int | None, common.UNSET] = None
    """Side of the blanked square in pixels; defaults to 16, at most 4/7 of the image."""
    augment: Annotated[bool | None, common.UNSET] = None
    """Random crops, flips (not of characters) and cutout; the small preset leaves them out of a search that begins with
    fewer than 30 epochs, and of a final training of fewer."""


@dataclass(frozen=True)
class Final:
    """Options of how the found network is trained."""

    topic: ClassVar[str] = "final_training"
    final_epochs: int = 30
    """Epochs of the found network (the paper: 600); 0 leaves its training out."""
    macro_width: bool = False
    """Train the found network at the width of the macro search, as the paper's reported networks."""
    train_all: bool = False
    """Train the found network on the validation images, too, as the paper does: nothing tells how good it is but the
    test."""


@dataclass(frozen=True)
class Bounds(common.Bounds):
    """Options of what candidates may cost."""

    topic: ClassVar[str] = "bound"
    latency_max: float = math.inf
    """Bound on the predicted latency in ms on this machine: layers are measured as they come up."""


@dataclass(frozen=True)
class Args(Bounds, Final, Training, Search, common.Kernels, opening.NewRun):
    run: common.Folder = Path("runs/global-nas")
    preset: Literal["small", "tiny", "mobile"] = "small"
    """Bounds and epochs: the paper's tiny or mobile (GPU-days), or small ones for two cores."""
    limit: Annotated[int | None, common.UNSET] = None
    """Train on a stratified subset of this many images; the small preset defaults to 10000."""


def run(args: Args) -> None:
    from latency.on_demand import OnDemandTable
    from search import greedy_run, plain_run
    from search.efficient_global import Config
    from supernet.training import defaults

    device = defaults.device(args.device)
    if args.final_epochs < 0:
        raise UserError(f"--final-epochs {args.final_epochs}: expected at least 0")
    limit = plain_run.SMALL_LIMIT if args.limit is None and args.preset == "small" else args.limit
    name, reason, images = opening.open_images(dataclasses.replace(args, limit=limit))
    metrics.require(args.metric, images.classes)
    images.train.steps(args.batch_size, drop_last=True)
    cutout = plain_run.widest_cutout(images, 16) if args.cutout is None else args.cutout
    names = ("depth", "width", "epochs", "micro_epochs", "start_kernel", "operations")
    given = {name: getattr(args, name) for name in names} | {"start_op": int(args.start_op == "conv")}
    config = plain_run.configure(args.preset, **given)
    folder = common.open_run(args)
    decay = args.decay or greedy_run.usual_decay(common.begun(args, folder))
    settings = common.settings(args, "kernels", "final_epochs", "macro_width", "train_all")
    settings |= {"data": name, "limit": limit, "cutout": cutout, "decay": decay, **dataclasses.asdict(config)}
    opened = dataclasses.replace(folder.decoded(images, args.progress), train=images.train.with_cutout(cutout))
    training = plain_run.training(args.preset, args.batch_size, args.lr, args.augment, args.seed, decay)
    tools = (device, args.progress, common.tell, args.kernels, args.metric)
    job = plain_run.PlainRun(folder, opened, training, *tools)
    bounds = (args.flops_max, args.params_max)
    # Refuses impossible bounds before anything is written.
    controller = plain_run.controller(config, job.image, *bounds)
    kind = ("-macro-width" if args.macro_width else "") + ("-all" if args.train_all else "")
    final = folder.final(args.final_epochs, kind)
    older = {**common.defaults(args), "start_op": Config().start_op, "decay": greedy_run.OLDER_DECAY}
    with folder.lock():
        folder.begin(settings, restart=args.restart, defaults=older, images=images)
        common.say(
            f"{config.depth[0]} to {config.depth[1]} layers (L), {config.width[0]} to {config.width[1]} channels (C); "
            f"{opening.in_words(images, name, reason)}; {common.escape(str(args.run))}"
        )
        if math.isfinite(args.latency_max):
            table = OnDemandTable(folder.lut_path, plain_run.corners(config, job.image), args.progress)
            controller = plain_run.controller(config, job.image, *bounds, args.latency_max, table.latency)
        found = job.search(controller)
        common.show(plain_run.phases(controller, job.image, args.metric))
        common.tell(f"{job.describe(controller, found)} → {folder.arch_path}, {folder.network_picture}")
        if args.final_epochs:
            if args.macro_width and controller.macro is not None:
                found = dataclasses.replace(found, width=controller.macro.width)
            test = partial(folder.test_images, args.data_root, args.workers)
            row = job.final(found, args.final_epochs, final, test, args.train_all)
            share = common.escape(metrics.percent(row, "test", args.metric))
            told = f"[bold]{share}[/bold], {row['params'] / 1e3:.1f} k parameters"
            common.say(
                f"{found.describe()} after {several(args.final_epochs, 'epoch')}, test "
                f"{metrics.NAMES[args.metric]}: {told} → "
                f"{common.escape(str(final.path))}"
            )
    if args.final_epochs < 600:
        common.next_command("global_nas", None, *common.words(dataclasses.replace(args, final_epochs=600)))
    else:
        common.next_command("export", args, after=("--pick", final.path.name))
    common.answer(args, final.result_path if args.final_epochs else folder.arch_path)


main = starting.entry(run, Args, after=report.leave_page)
