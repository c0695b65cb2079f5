"""Write a found network as a file for other runtimes: .pt2 (torch.export), .onnx, .tflite or .pte (ExecuTorch)."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from latency import agent, measure
from latency.profile import profile, profiler
from latency.runtimes import SUFFIXES
from latency.table import LatencyTable
from supernet import families, files
from supernet.cli import common
from supernet.errors import UserError
from supernet.export import formats
from supernet.methods import spos
from supernet.model import load_network
from supernet.space import Arch, Space
from supernet.training import checkpoint
from supernet.training.bn import recalibrate_bn

RUNTIMES = {suffix: name for name, suffix in SUFFIXES.items()}  # that executes a file, and so has its latency
SHOWN = 10  # operators of a profile


@dataclass(frozen=True)
class Args:
    output: Path | None = None
    """The file; its ending is the format (.pt2, .onnx, .tflite, .pte). RUN/PICK.onnx."""
    pick: str = "best"
    """Which network that retrain.py trained: the name of its folder in RUN."""
    arch: tuple[int, ...] | None = None
    """An architecture instead, with the supernet's weights; BN is recalibrated as in the search."""
    run: Path = Path("runs/default")
    """Folder of the run."""
    batch: int = 1
    """Images in one run; the file takes no other number."""
    recalibration: tuple[int, int] = (8, 128)
    """With --arch: batches and images per batch."""
    data_root: Path | None = None
    """Where image sets lie; where the supernet's training found them."""
    timed: bool = True
    """Measure the file where the table's runtime executes it."""
    profile: bool = False
    """Show the slowest operators of the file, by the profiler of its runtime: onnxruntime or executorch."""


def run(args: Args) -> None:
    if args.batch < 1:
        raise UserError(f"--batch {args.batch}: expected at least 1")
    space = common.load_space(args.run)
    name = "supernet" if args.arch else args.pick
    path = args.output or args.run / f"{name}.onnx"
    runtime = RUNTIMES.get(path.suffix[1:], path.name)
    if args.profile:
        profiler(runtime)  # refuses before anything is written
    arch, network, reference, accuracy = from_supernet(args, space) if args.arch else trained(args, space)
    lut = find_table(args.run, space)
    promised = lut.predict(spec.key for spec in families.lower(space, arch)) if lut else None
    shape = (space.channels, space.resolution, space.resolution)
    metadata = {
        "schema": 1,
        "space": {"name": space.name, "fingerprint": space.fingerprint},
        "arch": list(arch),
        "layers": space.describe(arch),
        "input": [args.batch, *shape],
        "accuracy": accuracy,
        "latency_ms": promised,
        "lut": {"device": lut.device, "runtime": lut.runtime, "threads": lut.threads} if lut else None,
    }
    difference = formats.export(network, reference, path, shape, metadata, args.batch)
    common.console.print(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB, logits within {difference:.1e} of the largest "
        f"(at most {formats.TOLERANCE:g} is taken)",
        highlight=False,
        soft_wrap=True,
    )
    if args.timed and lut and runtime == lut.runtime["name"] and args.batch == lut.batch:
        show_latency(path, lut, promised)
    if args.profile:
        show_profile(path, runtime, lut.threads if lut else 1)


def trained(args: Args, space: Space) -> tuple[Arch, nn.Module, Callable[[Tensor], Tensor], dict[str, Any]]:
    """A network that was trained alone: its architecture, itself, itself as reference, its accuracy.

    Accuracies are None where it was not tested: DSNAS's child is trained by the search.
    """
    folder, advice = args.run / args.pick, f"run python tools/retrain.py{common.run_flag(args.run)}"
    network, result = load_network(folder), folder / "result.json"
    space.require(network.space.fingerprint, str(folder))
    if not checkpoint.load(folder / "checkpoint.pt", advice)["finished"]:
        raise UserError(f"the network in {folder} is not trained to the end: {advice}")
    read = files.read_json(result, "result", advice) if result.exists() else {}
    return network.arch, network, network, {"test": read.get("test_accuracy"), "validation": read.get("val_accuracy")}


def from_supernet(args: Args, space: Space) -> tuple[Arch, nn.Module, Callable[[Tensor], Tensor], dict[str, Any]]:
    """An architecture with the supernet's weights; the reference is the supernet's own path."""
    arch = space.check(args.arch)
    supernet = common.load_supernet(args.run, space, torch.device("cpu")).eval()
    images = common.open_images(args.run, args.data_root)
    recalibrate_bn(supernet, spos.recalibration_images(images, *args.recalibration), arch)
    return arch, supernet.extract(arch), lambda x: supernet(x, arch), {"test": None, "validation": None}


def find_table(run: Path, space: Space) -> LatencyTable | None:
    """The run's latency table, if there is one."""
    return LatencyTable.load(run / "lut.json", space) if (run / "lut.json").exists() else None


def show_latency(path: Path, lut: LatencyTable, promised: float) -> None:
    """The file's latency beside what the table says, measured as the table was."""
    call = agent.LOADERS[lut.runtime["name"]](path.read_bytes(), lut.threads)
    with measure.pin_core() if lut.threads == 1 else nullcontext():
        timers = {"file": measure.stopwatch(call, agent.clock(lut.threads))}
        sample = measure.measure(timers, measure.Protocol(**lut.protocol))["file"]
    common.console.print(
        f"{lut.runtime['name']} takes {sample.median_ms:.4g} ms here{' (noisy)' if sample.noisy else ''}, the table "
        f"promised {promised:.4g} ms on {lut.device['cpu']} ({100 * (promised / sample.median_ms - 1):+.1f} %)",
        highlight=False,
        soft_wrap=True,
    )


def show_profile(path: Path, runtime: str, threads: int) -> None:
    """The operators that take longest, each with its place in the order in which they run."""
    with measure.pin_core() if threads == 1 else nullcontext():
        operators = profile(runtime, path.read_bytes(), threads)
    total = math.fsum(operator.ms for operator in operators)
    slowest = sorted(enumerate(operators, 1), key=lambda pair: -pair[1].ms)[:SHOWN]
    title = f"{len(slowest)} slowest of {len(operators)} operators, {total:.3f} ms by the profiler of {runtime}"
    grid = Table("place", "operator", "ms", "share", title=title)
    for place, operator in slowest:
        grid.add_row(str(place), operator.name, f"{operator.ms:.3f}", f"{100 * operator.ms / (total or 1):.1f} %")
    common.console.print(grid)


def main() -> None:
    """The command line."""
    common.main(run, Args)
