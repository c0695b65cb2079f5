"""Measure the latency of every candidate layer on this machine, and check the sums against whole networks."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import _cli
import numpy as np
import torch
from rich.table import Table
from torch import nn

from latency import runtimes
from latency.measure import Protocol, Samples, host, pin_core
from latency.table import Check, LatencyTable, calibrate, report
from search.costs import AdditiveCost
from supernet import checkpoint, spaces
from supernet.blocks import Layers, LayerSpec, layers, lower
from supernet.errors import UserError
from supernet.model import Network
from supernet.progress import Bar
from supernet.residual import Stages
from supernet.space import Arch, Space
from supernet.train import recalibrate_bn

FIT_ARCHS = 5  # whole networks that the scale is fitted on


@dataclass(frozen=True)
class Args:
    run: Path = Path("runs/default")
    """Folder of the run; the same command continues a build that was stopped."""
    space: str | None = None
    """A space .json, or a name (at 1×28² where it ends in -small, else at 3×224²); that of the run."""
    output: Path | None = None
    """The table; lut.json in the run."""
    runtime: str = "torch"
    """What runs the layers."""
    kernels: Literal["eager", "fused"] = "eager"
    """Plain PyTorch, as a saved network runs anywhere, or the project's operators."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the layers run."""
    batch: int = 1
    """Images in one run."""
    threads: int = 1
    """Of the CPU."""
    pin: bool = True
    """Stay on one core; with one thread only."""
    rounds: int = 12
    """Visits of each layer, in shuffled order, 10 ms each; at least 10."""
    check: bool = False
    """Build nothing: measure whole networks and compare them with the table there is, as it was measured."""
    check_archs: int = 8
    """Random architectures held out to state the error; five more fit the scale."""
    seed: int = 0
    """Of the order and of the architectures."""
    quiet: bool = False
    """No progress."""


def run(args: Args) -> None:
    if args.rounds < 10:
        raise UserError(f"--rounds {args.rounds}: expected at least 10, fewer do not tell noise from latency")
    if args.check_archs < 2:
        raise UserError(f"--check-archs {args.check_archs}: expected at least 2")
    space = find_space(args)
    output = args.output or args.run / "lut.json"
    if args.check:
        check(args, space, LatencyTable.load(output, space))
        return
    table = build(args, space, output)
    show(table, space)
    bound = rounded(_cli.default_bound(*extremes(table, space)))
    _cli.next_command(f"python tools/evolve.py{_cli.run_flag(args.run)} --lat-max {bound}")


def find_space(args: Args) -> Space:
    """The run's space, or the one that was asked for if the run has no other."""
    if args.space is None:
        return _cli.load_space(args.run)
    if args.space.endswith(".json"):
        space = Space.load(args.space)
    else:
        image = (1, 28, 10) if args.space.endswith("-small") else (3, 224, 1000)
        space = spaces.get(args.space, *image)
    if (args.run / "space.json").exists() and args.output is None:
        own = _cli.load_space(args.run)
        if own.fingerprint != space.fingerprint:
            raise UserError(
                f"--space {args.space} is {space.name} ({space.fingerprint}), the run {args.run} has "
                f"{own.name} ({own.fingerprint}): leave --space away, or write elsewhere with --output"
            )
    return space


def build(args: Args, space: Space, output: Path) -> LatencyTable:
    """Measure layers, then whole networks. A killed build leaves ``*.partial.json`` to continue from."""
    runtime = runtimes.get(
        args.runtime, kernels=args.kernels, device=args.device, batch=args.batch, threads=args.threads
    )
    protocol = Protocol(rounds=args.rounds)
    with pinned(args.pin, runtime) as core:
        header = {
            "space": {"name": space.name, "fingerprint": space.fingerprint},
            "device": {**host(), "core": core},
            "runtime": runtime.describe(),
            "batch": runtime.batch,
            "threads": runtime.threads,
            "input": (space.channels, space.resolution, space.resolution),
            "protocol": dataclasses.asdict(protocol),
        }
        partial = Partial(output.with_suffix(".partial.json"), header)
        specs = layers(space)
        modules = ((s.key, s.build(kernels=runtime.kernels), shape(s)) for s in unique(specs))
        operations = timed(args, runtime, modules, protocol, "layers", partial.layers, partial.save)
        table = LatencyTable(**header, operations=operations)
        archs = draw(space, FIT_ARCHS + args.check_archs, args.seed)
        checks = measure_whole(args, space, table, runtime, archs, protocol, partial.networks, partial.save)
    table = dataclasses.replace(table, calibration=calibrate(checks[:FIT_ARCHS], checks[FIT_ARCHS:]))
    checkpoint.write_json(output, table.to_json())
    partial.path.unlink()
    _cli.console.print(f"latency table → {output}", highlight=False)
    return table


class Partial:
    """The visits of an unfinished build. Those of other settings or another machine are not continued."""

    def __init__(self, path: Path, header: dict[str, Any]):
        self.path, self.header = path, header
        self.layers: dict[str, list] = {}
        self.networks: dict[str, list] = {}
        if path.exists():
            try:
                self._read()
            except (UserError, KeyError, TypeError, ValueError) as error:
                _cli.console.print(f"starting again: {error}", style="yellow", highlight=False, soft_wrap=True)
        self.save()  # an unwritable folder shows before anything is measured

    def _read(self) -> None:
        data = checkpoint.read_json(self.path, "unfinished latency table", "run this command again")
        if data["header"] != {**self.header, "input": list(self.header["input"])}:
            raise UserError(f"{self.path} is of another space, other settings or another machine")
        for visits in (*data["layers"].values(), *data["networks"].values()):
            if not all(wall > 0 and (cpu is None or cpu >= 0) for wall, cpu in visits):
                raise ValueError(f"{self.path} is damaged")
        self.layers, self.networks = data["layers"], data["networks"]

    def save(self) -> None:
        checkpoint.write_json(self.path, {"header": self.header, "layers": self.layers, "networks": self.networks})


def check(args: Args, space: Space, table: LatencyTable) -> None:
    """Measure architectures that the table has not seen, by its own runtime, and print the error."""
    runtime = runtimes.of_table(table)
    here = {**host(), "core": table.device.get("core")}
    if (here, runtime.describe()) != (table.device, table.runtime):
        _cli.console.print(
            f"{table.source} was measured on {table.device['cpu']} with {table.runtime['name']} "
            f"{table.runtime['version']}; this is {here['cpu']} with {runtime.describe()['version']}, or set "
            "up differently",
            style="yellow",
            highlight=False,
        )
    seen = {c.arch for c in table.calibration.fitted_on} if table.calibration else set()
    archs = [arch for arch in draw(space, FIT_ARCHS + args.check_archs, args.seed + 1) if arch not in seen]
    archs = archs[: args.check_archs]
    protocol = Protocol(rounds=args.rounds)
    with pinned(args.pin, runtime):
        checks = measure_whole(args, space, table, runtime, archs, protocol, {}, lambda: None)
    grid = Table("architecture", "predicted ms", "measured ms", "error")
    for c in sorted(checks, key=lambda c: c.measured_ms):
        predicted = table.scale * c.sum_ms
        error = f"{100 * (predicted / c.measured_ms - 1):+.1f} %{' (noisy)' if c.noisy else ''}"
        grid.add_row(space.describe(c.arch), f"{predicted:.3f}", f"{c.measured_ms:.3f}", error)
    _cli.console.print(grid)
    errors = report([table.scale * c.sum_ms for c in checks], [c.measured_ms for c in checks])
    _cli.console.print(f"{len(checks)} architectures: {in_words(*errors)}", highlight=False)


def measure_whole(
    args: Args,
    space: Space,
    table: LatencyTable,
    runtime: runtimes.Runtime,
    archs: list[Arch],
    protocol: Protocol,
    taken: dict[str, list],
    save: Callable[[], None],
) -> list[Check]:
    """Time whole networks, interleaved with one another, beside what the table's layers add up to."""
    keys = {arch: ",".join(map(str, arch)) for arch in archs}
    modules = ((key, whole(space, arch, runtime.kernels, args.seed), table.input) for arch, key in keys.items())
    samples = timed(args, runtime, modules, protocol, "whole networks", taken, save)
    raw = dataclasses.replace(table, calibration=None)
    return [
        Check(arch, raw.predict(s.key for s in lower(space, arch)), samples[key].median_ms, samples[key].noisy)
        for arch, key in keys.items()
    ]


def whole(space: Space, arch: Arch, kernels: str, seed: int) -> Network:
    """An untrained network whose BN keeps values in range: denormal numbers would take longer."""
    torch.manual_seed(seed)
    network = Network(space, arch, kernels=kernels)
    recalibrate_bn(network, [torch.randn(8, space.channels, space.resolution, space.resolution)])
    return network


def timed(
    args: Args,
    runtime: runtimes.Runtime,
    modules: Iterable[tuple[str, nn.Module, runtimes.Shape]],
    protocol: Protocol,
    what: str,
    taken: dict[str, list],
    save: Callable[[], None],
) -> dict[str, Samples]:
    """``time_modules`` with a progress bar for each of its passes."""

    def progress(label: str, total: int, done: int) -> Bar:
        return Bar(f"{what}: {label}", total, done=done, unit="visits", quiet=args.quiet)

    return runtimes.time_modules(runtime, modules, protocol, taken=taken, save=save, progress=progress, seed=args.seed)


def pinned(pin: bool, runtime: runtimes.Runtime):
    """One core for one thread."""
    return pin_core() if pin and runtime.threads == 1 else nullcontext()


def unique(specs: Layers | Stages) -> list[LayerSpec]:
    """Every layer that runs anything, once; a gene's pruned layers too, so that the table serves the whole space."""
    return list({spec.key: spec for spec in specs.every() if spec.runs}.values())


def shape(spec: LayerSpec) -> runtimes.Shape:
    return spec.in_channels, spec.size, spec.size


def draw(space: Space, n: int, seed: int) -> list[Arch]:
    """Up to ``n`` different architectures, fewer where the space has hardly more."""
    rng = np.random.default_rng(seed)
    return list(dict.fromkeys(space.sample(rng) for _ in range(20 * n)))[:n]


def extremes(table: LatencyTable, space: Space) -> tuple[float, float]:
    """Predicted latency of the fastest and of the slowest architecture."""
    return AdditiveCost(*layers(space).priced(table.price)).bounds(space)


def median_ms(table: LatencyTable, space: Space) -> float:
    """Predicted latency of the median of 1,000 random architectures."""
    latency = AdditiveCost(*layers(space).priced(table.price))
    rng = np.random.default_rng(0)
    return statistics.median(latency(space.sample(rng)) for _ in range(1000))


def rounded(ms: float) -> str:
    """Three significant digits, never as a power of ten."""
    return f"{ms:.{max(0, 2 - math.floor(math.log10(ms)))}f}"


def in_words(mape: float | None, spearman: float | None) -> str:
    if mape is None:
        return "no architecture left to check"
    rank = "" if spearman is None else f", Spearman {spearman:.3f}"
    return f"mean error of the prediction {100 * mape:.1f} %{rank}"


def show(table: LatencyTable, space: Space) -> None:
    """What was measured, how well, and what it says about the space."""
    low, high = extremes(table, space)
    quality, calibration = table.quality, table.calibration
    n, noisy = len(table.operations), sum(s.noisy for s in table.operations.values())
    preempted = sum(s.source == "cpu" for s in table.operations.values())
    networks = (*calibration.fitted_on, *calibration.held_out)
    error = in_words(calibration.held_out_mape, calibration.held_out_spearman)
    core = "" if table.device["core"] is None else f", on core {table.device['core']}"
    options = ", ".join(str(value) for value in table.runtime["options"].values())
    grid = Table(show_header=False)
    grid.add_row("device", f"{table.device['cpu']}, {table.device['cores']} cores{core}")
    grid.add_row(
        "runtime",
        f"{table.runtime['name']} {table.runtime['version']} ({options}), batch {table.batch}, "
        f"{table.threads} thread{'s' if table.threads > 1 else ''}",
    )
    grid.add_row(
        "layers",
        f"{n}, of them {noisy} noisy (halves differ by over {100 * table.protocol['gate']:g} %, "
        f"median {100 * quality['median_aa']:.1f} %)"
        + (f", {preempted} timed by the CPU clock: the machine was busy" if preempted else ""),
    )
    grid.add_row(
        "check",
        f"{error} on {len(calibration.held_out)} whole networks held out; scale {calibration.scale:.3f} from "
        f"{len(calibration.fitted_on)}"
        + (f"; {sum(c.noisy for c in networks)} of them noisy" if any(c.noisy for c in networks) else ""),
    )
    grid.add_row(
        "latency",
        f"{rounded(low)} to {rounded(high)} ms over {space.name}; median of 1,000 random "
        f"architectures {rounded(median_ms(table, space))} ms",
    )
    _cli.console.print(grid)
    if noisy > n / 5:
        _cli.console.print(
            "the machine was too busy for a good table: close what else runs, or move to a quiet machine, "
            "and build it again",
            style="yellow",
        )


if __name__ == "__main__":
    _cli.main(run, Args)
