"""Training found networks alone and telling how it went: what retrain.py and the end of pad_nas.py share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from supernet.cli import common, searching, tables

if TYPE_CHECKING:
    from supernet.retraining import Settings
    from supernet.runs import RunFolder


def train(folder: RunFolder, settings: Settings, pick: str, controls: int, args: Any, at_once: int) -> None:
    """Train what ``pick`` names and random controls, test and measure them, write and show the results.

    Args:
        args: with device, data_root and progress. at_once: networks trained in parallel.
    """
    from latency.table import LatencyTable
    from supernet import families, retraining

    space = folder.space()
    entries = retraining.picked(folder.front(space), pick, controls)
    archs = {name: space.check(entry["arch"]) for name, entry in entries.items()}
    lut = LatencyTable.find(folder.lut_path, space)  # a DSNAS run may have none
    if lut is not None:
        predicted = {n: lut.predict(spec.key for spec in families.lower(space, arch)) for n, arch in archs.items()}
        entries = {name: {"latency_ms": predicted[name], **entry} for name, entry in entries.items()}
    with folder.lock():
        trained = retraining.train(
            folder,
            archs,
            settings,
            device=args.device,
            at_once=at_once,
            data_root=args.data_root,
            progress=args.progress,
            aside=lambda old, new: common.tell(f"{old} held another training: moved to {new}"),
        )
        samples = searching.measured(
            lut, space, lambda kernels: {n: folder.network(n).trained(space, kernels) for n in archs}
        )
        measured = {name: {"measured_latency_ms": sample.median_ms} for name, sample in samples.items()}
        rows = {name: {**entries[name], **trained[name], **measured.get(name, {})} for name in archs}
        retraining.write(folder, rows, settings)
    show(folder, rows, "trained alone" if settings.epochs else "weights of the supernet")


def show(folder: RunFolder, rows: dict[str, dict], what: str) -> None:
    """One table: the picked networks, and mean ± standard deviation of the random ones."""
    from supernet.report import columns
    from supernet.retraining import controls

    shown = [c for c in columns.shared(rows.values()) if c[1] != "val_accuracy"]  # as wide as a terminal
    random, first = controls(rows), next(iter(rows))
    alone = [name for name in rows if name not in random or len(random) == 1]
    cells = [[name, *(form.format(scale * rows[name][key]) for _, key, scale, form in shown)] for name in alone]
    if len(random) > 1:
        told = [f"{len(random)} random"]
        for _, key, scale, form in shown:
            told.append(" ± ".join(map(form.format, tables.mean_and_deviation([scale * rows[n][key] for n in random]))))
        cells.append(told)
    tables.show(["", *(c[0] for c in shown)], cells, f"{what}, tested once", left=0)
    if random:
        test = [100 * rows[name]["test_accuracy"] for name in random]
        accuracy = 100 * rows[first]["test_accuracy"]
        against = "a random architecture of the same window"
        if len(random) > 1:
            against = f"the mean of {len(random)} random architectures of the same window"
            against += f", {accuracy - max(test):+.2f} against the best of them"
        common.say(f"{first}: {accuracy - sum(test) / len(test):+.2f} points of test accuracy against {against}")
    common.tell(f"→ {folder.network(first).path}")
