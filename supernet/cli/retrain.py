"""Train architectures of the front alone, beside random ones of the same window, and test each of them once."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supernet.cli import common
from supernet.errors import UserError
from supernet.progress import shown

if TYPE_CHECKING:
    from latency.table import LatencyTable
    from supernet.retraining import Settings
    from supernet.runs import RunFolder
    from supernet.space import Space


@dataclass(frozen=True)
class Args(common.OnRun):
    pick: str = "best"
    """Architecture to train: best, knee, all, or its number in the front."""
    controls: int = 4
    """Random architectures of the same window to train beside it."""
    epochs: int = 12
    """Epochs (SPOS on ImageNet: 240); 0 with --inherit tests the weights as they are."""
    batch_size: int = 64
    """Images per step."""
    lr: float | None = None
    """Peak learning rate; defaults to 0.2 · sqrt(batch size / 64), at most 0.5."""
    clip: float = 0.0
    """Largest gradient norm; 0 turns clipping off."""
    inherit: bool = False
    """Start from the supernet's weights instead of from scratch."""
    augment: bool | None = None
    """Random crops and flips; defaults to on from 30 epochs, since short trainings do better without."""
    limit: int | None = None
    """Train on a stratified subset of this many images."""
    seed: int = 0
    """Random seed of the weights and the augmentation."""
    jobs: int = os.cpu_count() or 1
    """Networks trained in parallel, on the CPU."""
    device: str | None = None
    """Device: cpu, cuda, …; defaults to CUDA if available."""
    quiet: bool = False
    """Show no progress."""

    @property
    def settings(self) -> Settings:
        """What shapes a trained network."""
        from supernet.retraining import Settings

        return Settings(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Settings)})


def run(args: Args) -> None:
    train(args)
    common.next_command("report", args)


def train(args: Args) -> None:
    """Train what is asked for, write and show the results."""
    from latency.table import LatencyTable
    from supernet import families, retraining

    if args.epochs == 0 and not args.inherit:
        raise UserError("--epochs 0 trains nothing: expected --inherit with it, or at least one epoch")
    folder, settings = args.folder, args.settings
    space = folder.space()
    entries = retraining.picked(folder.front(space), args.pick, args.controls)
    archs = {name: space.check(entry["arch"]) for name, entry in entries.items()}
    # A DSNAS run may have no table.
    lut = LatencyTable.load(folder.lut_path, space) if folder.lut_path.exists() else None
    if lut is not None:
        predicted = {n: lut.predict(spec.key for spec in families.lower(space, arch)) for n, arch in archs.items()}
        entries = {name: {"latency_ms": predicted[name], **entry} for name, entry in entries.items()}
    with folder.lock():
        trained = retraining.train(
            folder,
            archs,
            settings,
            device=args.device,
            at_once=args.jobs,
            data_root=args.data_root,
            progress=shown(not args.quiet),
            aside=lambda old, new: common.say(common.escape(f"{old} held another training: moved to {new}")),
        )
        measured = {} if lut is None else measure(folder, space, list(archs), lut)
        rows = {name: {**entries[name], **trained[name], **measured.get(name, {})} for name in archs}
        retraining.write(folder, rows, settings)
    show(args, rows)


def measure(folder: RunFolder, space: Space, names: list[str], lut: LatencyTable) -> dict[str, dict]:
    """Latency of the whole networks in ms, measured as the table was; none where that is not possible here."""
    from latency import runtimes

    shape = (space.channels, space.resolution, space.resolution)
    try:
        samples = runtimes.measure_like(
            lut, lambda kernels: [(name, folder.network(name).trained(space, kernels), shape) for name in names]
        )
    except UserError as error:
        common.say(f"latency is not measured: {common.escape(str(error))}")
        return {}
    return {name: {"measured_latency_ms": sample.median_ms} for name, sample in samples.items()}


def show(args: Args, rows: dict[str, dict]) -> None:
    """One table: the picked networks, and mean ± standard deviation of the random ones."""
    import numpy as np
    from rich.table import Table

    from supernet.cli import tables
    from supernet.retraining import controls

    columns = [c for c in tables.columns(rows.values()) if c[1] != "val_accuracy"]  # as wide as a terminal
    table = Table("", title=f"{'trained alone' if args.epochs else 'weights of the supernet'}, tested once")
    for column in columns:
        table.add_column(column[0], justify="right")
    random = controls(rows)
    for name, row in rows.items():
        if name not in random or len(random) == 1:
            table.add_row(name, *(form.format(scale * row[key]) for _, key, scale, form in columns))
    if len(random) > 1:
        cells = []
        for _, key, scale, form in columns:
            values = np.array([scale * rows[name][key] for name in random])
            cells.append(f"{form.format(values.mean())} ± {form.format(values.std(ddof=1))}")
        table.add_row(f"{len(random)} random", *cells, end_section=True)
    common.say(table)
    first = next(iter(rows))
    if random:
        test = np.array([100 * rows[name]["test_accuracy"] for name in random])
        accuracy = 100 * rows[first]["test_accuracy"]
        window = "of the same window"
        against = f"against a random architecture {window}"
        if len(random) > 1:
            best = f"{accuracy - test.max():+.2f} against the best of them"
            against = f"against the mean of {len(random)} random architectures {window}, {best}"
        common.say(f"{first}: {accuracy - test.mean():+.2f} points of test accuracy {against}")
    common.say(common.escape(f"→ {args.run / first}"))


def main() -> None:
    """The command line."""
    common.main(run, Args)
