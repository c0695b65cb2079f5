"""Write a found network as a file for other runtimes: .pt2 (torch.export), .onnx, .tflite or .pte (ExecuTorch)."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from supernet.cli import common
from supernet.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from latency.table import LatencyTable
    from supernet.runs import RunFolder
    from supernet.space import Arch, Space

SHOWN = 10  # operators of a profile


@dataclass(frozen=True)
class Args(common.Decoding, common.OnRun):
    output: Path | None = None
    """Output file; its suffix is the format (.pt2, .onnx, .tflite, .pte). Defaults to RUN/PICK.onnx."""
    pick: str = "best"
    """Network that retrain.py trained: the name of its folder in RUN."""
    arch: tuple[int, ...] | None = None
    """An architecture instead, with the supernet's weights; BN is recalibrated as in the search."""
    batch: int = 1
    """Batch size; the file takes no other."""
    recalibration: tuple[int, int] = (8, 128)
    """With --arch: batches and images per batch for recalibrating BN."""
    timed: bool = True
    """Measure the file where the table's runtime executes it."""
    profile: bool = False
    """Show the slowest operators of the file, by the profiler of its runtime: onnxruntime or executorch."""


class Found(NamedTuple):
    """A network to be written."""

    arch: Arch
    network: nn.Module  # eager, in eval mode
    reference: Callable[[Tensor], Tensor]  # what it was extracted from
    accuracy: dict[str, Any]  # in [0, 1], None where it was not tested


def run(args: Args) -> None:
    from latency.profile import profiler
    from latency.runtimes import SUFFIXES
    from latency.table import LatencyTable
    from supernet import families
    from supernet.export import formats

    if args.batch < 1:
        raise UserError(f"--batch {args.batch}: expected at least 1")
    folder = args.folder
    space = folder.space()
    path = args.output or args.run / f"{'supernet' if args.arch else args.pick}.onnx"
    runtime = next((name for name, suffix in SUFFIXES.items() if path.suffix == f".{suffix}"), path.name)
    if args.profile:
        profiler(runtime)  # refuses before anything is written
    found = from_supernet(args, folder, space) if args.arch else trained(args, folder, space)
    lut = LatencyTable.load(folder.lut_path, space) if folder.lut_path.exists() else None
    promised = lut.predict(spec.key for spec in families.lower(space, found.arch)) if lut else None
    shape = (space.channels, space.resolution, space.resolution)
    metadata = {
        "schema": 1,
        "space": {"name": space.name, "fingerprint": space.fingerprint},
        "arch": list(found.arch),
        "layers": space.describe(found.arch),
        "input": [args.batch, *shape],
        "accuracy": found.accuracy,
        "latency_ms": promised,
        "lut": {"table": lut.identity, "device": lut.device, "runtime": lut.runtime, "threads": lut.threads}
        if lut
        else None,
        "made_from": folder.origin(),
    }
    difference = formats.export(found.network, found.reference, path, shape, metadata, args.batch)
    common.say(
        f"{common.escape(str(path))}: {path.stat().st_size / 1e6:.1f} MB, logits within {difference:.1e} of the "
        f"largest (tolerance {formats.TOLERANCE:g})"
    )
    if args.timed and lut and promised and runtime == lut.runtime["name"] and args.batch == lut.batch:
        show_latency(path, lut, promised)
    if args.profile:
        show_profile(path, runtime, lut.threads if lut else 1)


def trained(args: Args, folder: RunFolder, space: Space) -> Found:
    """A network that was trained alone; DSNAS's child is trained by the search and not tested."""
    from supernet import files

    own = folder.network(args.pick)
    network = own.trained(space)
    if folder.front_path.exists() and folder.stale(args.pick, network.arch, folder.front(space)):
        raise UserError(
            f"{own.path} was trained for an earlier search, the front has another network for --pick {args.pick} now",
            missing="network",
        )
    read = files.read_json(own.result_path, "result", missing="network") if own.result_path.exists() else {}
    accuracy = {"test": read.get("test_accuracy"), "validation": read.get("val_accuracy")}
    return Found(network.arch, network, network, accuracy)


def from_supernet(args: Args, folder: RunFolder, space: Space) -> Found:
    """An architecture with the supernet's weights; the reference is the supernet's own path."""
    import torch

    from supernet.methods import spos
    from supernet.training.bn import recalibrate_bn

    arch = space.check(args.arch or ())
    supernet = folder.supernet(space, torch.device("cpu"), "fused").eval()
    images = folder.images(args.data_root, workers=args.workers)
    recalibrate_bn(supernet, spos.recalibration_images(images, *args.recalibration), arch)
    return Found(arch, supernet.extract(arch), lambda x: supernet(x, arch), {"test": None, "validation": None})


def show_latency(path: Path, lut: LatencyTable, promised: float) -> None:
    """The file's latency beside what the table says, measured as the table was."""
    from latency import agent, measure

    call = agent.LOADERS[lut.runtime["name"]](path.read_bytes(), lut.threads)
    with measure.pin_core() if lut.threads == 1 else nullcontext():
        timers = {"file": measure.stopwatch(call, agent.clock(lut.threads))}
        sample = measure.measure(timers, measure.Protocol(**lut.protocol))["file"]
    common.say(
        f"{lut.runtime['name']} takes {sample.median_ms:.4g} ms here{' (noisy)' if sample.noisy else ''}, the table "
        f"promised {promised:.4g} ms on {lut.device['cpu']} ({100 * (promised / sample.median_ms - 1):+.1f} %)"
    )


def show_profile(path: Path, runtime: str, threads: int) -> None:
    """The operators that take longest, each with its place in the order in which they run."""
    from rich.table import Table

    from latency import measure
    from latency.profile import profile

    with measure.pin_core() if threads == 1 else nullcontext():
        operators = profile(runtime, path.read_bytes(), threads)
    total = math.fsum(operator.ms for operator in operators)
    slowest = sorted(enumerate(operators, 1), key=lambda pair: -pair[1].ms)[:SHOWN]
    title = f"{len(slowest)} slowest of {len(operators)} operators, {total:.3f} ms by the profiler of {runtime}"
    grid = Table("place", "operator", "ms", "share", title=title)
    for place, operator in slowest:
        grid.add_row(str(place), operator.name, f"{operator.ms:.3f}", f"{100 * operator.ms / (total or 1):.1f} %")
    common.say(grid)


def main() -> None:
    """The command line."""
    common.main(run, Args)
