"""Training found networks alone and telling how it went: what retrain.py and the end of pad_nas.py share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from supernet.cli import common

if TYPE_CHECKING:
    from supernet.retraining import Settings
    from supernet.runs import RunFolder


def train(folder: RunFolder, settings: Settings, pick: str, controls: int, args: Any, at_once: int) -> None:
    """Train what ``pick`` names and random controls, test and measure them, write and show the results.

    Args:
        args: with device, data_root and progress. at_once: networks trained in parallel.
    """
    from latency import runtimes
    from latency.table import LatencyTable
    from supernet import retraining
    from supernet.report import columns

    space = folder.space()
    entries = retraining.picked(folder.front(space), pick, controls)
    archs = {name: space.check(entry["arch"]) for name, entry in entries.items()}
    lut = LatencyTable.find(folder.lut_path, space)  # a DSNAS run may have none
    if lut is not None:
        predicted = {n: lut.predict_arch(space, arch) for n, arch in archs.items()}
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
        samples = runtimes.measure_networks(
            lut, space, lambda kernels: {n: folder.network(n).trained(space, kernels) for n in archs}, common.tell
        )
        measured = {name: {"measured_latency_ms": sample.median_ms} for name, sample in samples.items()}
        rows = {name: {**entries[name], **trained[name], **measured.get(name, {})} for name in archs}
        retraining.write(folder, rows, settings)
    common.show(
        columns.alone(rows, f"{'trained alone' if settings.epochs else 'weights of the supernet'}, tested once")
    )
    if gain := columns.gain(rows):
        common.say(gain)
    common.tell(f"→ {folder.network(next(iter(rows))).path}")
