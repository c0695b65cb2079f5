"""Training found networks alone and telling how it went: what retrain.py and the end of pad_nas.py share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from supernet.cli import common
from supernet.errors import UserError
from supernet.progress import Progress

if TYPE_CHECKING:
    from latency.table import LatencyTable
    from supernet.retraining import Settings
    from supernet.runs import RunFolder
    from supernet.space import Space


def train(
    folder: RunFolder,
    settings: Settings,
    pick: str,
    controls: int,
    *,
    device: str | None,
    at_once: int,
    workers: int,
    data_root: Path | None,
    progress: Progress,
) -> None:
    """Train what ``pick`` names and random controls, test and measure them, write and show the results."""
    from latency.table import LatencyTable
    from supernet import families, retraining

    space = folder.space()
    entries = retraining.picked(folder.front(space), pick, controls)
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
            device=device,
            at_once=at_once,
            workers=workers,
            data_root=data_root,
            progress=progress,
            aside=lambda old, new: common.say(common.escape(f"{old} held another training: moved to {new}")),
        )
        measured = {} if lut is None else measure(folder, space, list(archs), lut)
        rows = {name: {**entries[name], **trained[name], **measured.get(name, {})} for name in archs}
        retraining.write(folder, rows, settings)
    show(folder, rows, "trained alone" if settings.epochs else "weights of the supernet")


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


def show(folder: RunFolder, rows: dict[str, dict], what: str) -> None:
    """One table: the picked networks, and mean ± standard deviation of the random ones."""
    import numpy as np
    from rich.table import Table

    from supernet.cli import tables
    from supernet.retraining import controls

    columns = [c for c in tables.columns(rows.values()) if c[1] != "val_accuracy"]  # as wide as a terminal
    table = Table("", title=f"{what}, tested once")
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
    common.say(common.escape(f"→ {folder.network(first).path}"))
