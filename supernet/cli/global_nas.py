"""Efficient Global NAS: find depth, width, operations and kernels of a plain network, then train it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from supernet.cli import common, opening
from supernet.errors import UserError
from supernet.metrics import percent


@dataclass(frozen=True)
class Args(common.Bounds, common.Kernels, opening.NewRun):
    run: common.Folder = Path("runs/global-nas")
    preset: Literal["small", "tiny", "mobile"] = "small"
    """Bounds and epochs: the paper's tiny or mobile (GPU-days), or small ones for two cores."""
    depth: Annotated[tuple[int, int] | None, common.UNSET] = None
    """Fewest and most layers; defaults to the preset's."""
    width: Annotated[tuple[int, int] | None, common.UNSET] = None
    """Fewest and most channels at full resolution; defaults to the preset's."""
    epochs: Annotated[int | None, common.UNSET] = None
    """Epochs of the first candidate; each further layer adds 1, each step of width 2. Defaults to the preset's."""
    micro_epochs: Annotated[int | None, common.UNSET] = None
    """Epochs of candidates for operations and kernels; defaults to the preset's."""
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
    cutout: Annotated[int | None, common.UNSET] = None
    """Side of the blanked square in pixels; defaults to 16, at most 4/7 of the image."""
    augment: Annotated[bool | None, common.UNSET] = None
    """Random crops, flips (not of characters) and cutout; the small preset leaves them out below 30 epochs."""
    limit: Annotated[int | None, common.UNSET] = None
    """Train on a stratified subset of this many images; the small preset defaults to 10000."""


def run(args: Args) -> None:
    from latency.on_demand import OnDemandTable
    from search import plain_run
    from supernet.training import defaults

    device = defaults.device(args.device)
    if args.final_epochs < 0:
        raise UserError(f"--final-epochs {args.final_epochs}: expected at least 0")
    limit = plain_run.SMALL_LIMIT if args.limit is None and args.preset == "small" else args.limit
    name, reason, images = opening.open_images(dataclasses.replace(args, limit=limit))
    images.train.steps(args.batch_size, drop_last=True)
    cutout = plain_run.widest_cutout(images, 16) if args.cutout is None else args.cutout
    names = ("depth", "width", "epochs", "micro_epochs")
    config = plain_run.configure(args.preset, **{name: getattr(args, name) for name in names})
    settings = common.settings(args, "kernels", "final_epochs", "macro_width")
    settings |= {"data": name, "limit": limit, "cutout": cutout, **dataclasses.asdict(config)}
    folder = common.open_run(args)
    opened = dataclasses.replace(folder.decoded(images, args.progress), train=images.train.with_cutout(cutout))
    training = plain_run.training(args.preset, args.batch_size, args.lr, args.augment, args.seed)
    job = plain_run.PlainRun(folder, opened, training, device, args.progress, common.tell, args.kernels)
    bounds = (args.flops_max, args.params_max)
    # Refuses impossible bounds before anything is written.
    controller = plain_run.controller(config, job.image, *bounds)
    final = folder.final(args.final_epochs, "-macro-width" if args.macro_width else "")
    with folder.lock():
        folder.begin(settings, restart=args.restart, defaults=common.defaults(args), images=images)
        common.say(
            f"{config.depth[0]} to {config.depth[1]} layers, {config.width[0]} to {config.width[1]} channels; "
            f"{opening.in_words(images, name, reason)}; {common.escape(str(args.run))}"
        )
        if math.isfinite(args.latency_max):
            table = OnDemandTable(folder.lut_path, plain_run.corners(config, job.image), args.progress)
            controller = plain_run.controller(config, job.image, *bounds, args.latency_max, table.latency)
        found = job.search(controller)
        common.show(plain_run.phases(controller, job.image))
        common.tell(f"{job.describe(controller, found)} → {folder.arch_path}, {folder.network_picture}")
        if args.final_epochs:
            if args.macro_width and controller.macro is not None:
                found = dataclasses.replace(found, width=controller.macro.width)
            row = job.final(found, args.final_epochs, final, lambda: folder.test_images(args.data_root, args.workers))
            told = f"[bold]{common.escape(percent(row, 'test'))}[/bold], {row['params'] / 1e3:.1f} k parameters"
            common.say(
                f"{found.describe()} after {args.final_epochs} epochs, test accuracy: {told} → "
                f"{common.escape(str(final.path))}"
            )
    if args.final_epochs < 600:
        common.next_command("global_nas", None, *common.words(dataclasses.replace(args, final_epochs=600)))
    else:
        common.next_command("export", args, after=("--pick", final.path.name))


main = common.entry(run, Args, page=True)
