"""Measure the latency of every candidate layer, here or on another device, and check the sums on whole networks."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import shutil
from collections.abc import Callable, Collection, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from rich.table import Table

from latency import agent, bundle, remote, runtimes
from latency.measure import Protocol, Samples, host, parse_cores, pin_core, summarise
from latency.runtimes import FileRuntime, Layer, Runtime
from latency.table import Check, LatencyTable, report
from search.costs import AdditiveCost, Window
from supernet import files, spaces
from supernet.cli import common, tables
from supernet.errors import UserError
from supernet.families import layout, lower
from supernet.families.layerwise import Layers
from supernet.families.residual import Stages
from supernet.progress import shown
from supernet.space import Arch, Space
from supernet.spec import LayerSpec

FIT_ARCHS = 5  # whole networks that scale and overhead are fitted on
HOPELESS = 10  # times the gate: half of all layers differ by more between two halves of their visits


@dataclass(frozen=True)
class Args:
    run: Path = Path("runs/default")
    """Folder of the run; the same command continues a build that was stopped."""
    space: str | None = None
    """A space .json, or a name (at 1×28² where it ends in -small, else at 3×224²); that of the run."""
    output: Path | None = None
    """The table; lut.json in the run."""
    runtime: str | None = None
    """torch, onnxruntime, litert or executorch; onnxruntime where it is installed."""
    kernels: Literal["eager", "fused"] = "eager"
    """Of torch: plain PyTorch, as a saved network runs anywhere, or the project's operators."""
    device: str = "cpu"
    """cpu, cuda or cuda-graph (torch); ssh://user@host; adb: an Android device with benchmark_model."""
    batch: int = 1
    """Images in one run."""
    threads: int = 1
    """Of the CPU."""
    pin: bool = True
    """Stay on one core; with one thread only."""
    cores: str | None = None
    """Stay on these cores, e.g. 4 or 4-7, also on another device; the fastest one here."""
    rounds: int = 12
    """Visits of each layer, in shuffled order, 10 ms each; at least 10."""
    emit: Path | None = None
    """Measure nothing: write a bundle of converted layers with an agent that times them on any device."""
    collect: Path | None = None
    """Measure nothing: make the table from what the agent wrote."""
    check: Path | None = None
    """Build nothing: measure whole networks and compare them with this table, as it was measured."""
    check_archs: int = 8
    """Architectures held out to state the error, random ones from small to large; five more calibrate."""
    seed: int = 0
    """Of the order and of the architectures."""
    quiet: bool = False
    """No progress."""


def run(args: Args) -> None:
    if args.rounds < 10:
        raise UserError(f"--rounds {args.rounds}: expected at least 10, fewer do not tell noise from latency")
    if args.check_archs < 2:
        raise UserError(f"--check-archs {args.check_archs}: expected at least 2")
    if args.check and args.space is None and (args.check.parent / "space.json").exists():
        args = dataclasses.replace(args, run=args.check.parent)
    space = find_space(args)
    output = args.output or args.run / "lut.json"
    if args.check:
        check(args, space, LatencyTable.load(args.check, space))
    elif args.emit:
        emit(args, space, output, args.emit)
    else:
        table = collect(args, space) if args.collect else build(args, space, output)
        write(table, output)
        show(args, space, output, table)


def write(table: LatencyTable, output: Path) -> None:
    """Write the table unless it is worth nothing."""
    median, gate = table.quality["median_aa"], table.protocol["gate"]
    partial = output.with_suffix(".partial.json")
    if median > HOPELESS * gate:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"the clock is too noisy: half of the layers differ by over {100 * median:.0f} % between two halves of "
            f"their visits, {100 * gate:g} % is the aim; close what else runs and build again ({output} is untouched)"
        )
    files.write_json(output, table.to_json())
    partial.unlink(missing_ok=True)


def show(args: Args, space: Space, output: Path, table: LatencyTable) -> None:
    """What was measured, and what to do with it."""
    common.console.print(f"latency table → {output}", highlight=False)
    tables.show(table, space)
    found = args.run / "arch.json"
    if found.exists():  # of a search that ends with one network: there is no supernet to be searched
        arch = space.check(files.read_json(found, "found network", "run its search again")["arch"])
        predicted = table.predict(spec.key for spec in lower(space, arch))
        common.console.print(f"the network of {found}: {tables.rounded(predicted)} ms predicted", highlight=False)
        return
    if not (args.run / "space.json").exists():  # a space alone, nothing trained
        common.next_command(f"python tools/build_lut.py --space {args.space} --check {output}")
        return
    bound = tables.rounded(common.default_bound(*tables.extremes(table, space)))
    common.next_command(f"python tools/evolve.py{common.run_flag(args.run)} --lat-max {bound}")


def find_space(args: Args) -> Space:
    """The run's space, or the one that was asked for if the run has no other."""
    if args.space is None:
        return common.load_space(args.run)
    if args.space.endswith(".json"):
        space = Space.load(args.space)
    else:
        image = (1, 28, 10) if args.space.endswith("-small") else (3, 224, 1000)
        space = spaces.get(args.space, *image)
    if (args.run / "space.json").exists() and args.output is None:
        own = common.load_space(args.run)
        if own.fingerprint != space.fingerprint:
            raise UserError(
                f"--space {args.space} is {space.name} ({space.fingerprint}), the run {args.run} has "
                f"{own.name} ({own.fingerprint}): leave --space away, or write elsewhere with --output"
            )
    return space


def build(args: Args, space: Space, output: Path) -> LatencyTable:
    """Measure layers, then whole networks. A killed build leaves ``*.partial.json`` to continue from."""
    if args.device.startswith("ssh://"):
        return over_ssh(args, space, output)
    runtime = find_runtime(args, output)
    protocol = find_protocol(args)
    with pinned(args, runtime) as core:
        header = {
            **settings(space, runtime, protocol),
            "device": device(runtime, core),
            "runtime": runtime.describe(),
        }
        partial = Partial(output.with_suffix(".partial.json"), header)
        timed(args, runtime, unique_layers(space, runtime), protocol, "layers", partial.layers, partial.save)
        networks = whole_networks(args, space, runtime, archs_of(args, space))
        timed(args, runtime, networks, protocol, "whole networks", partial.networks, partial.save)
    table = table_of(space, header, partial.layers, partial.networks, protocol)
    forget_networks(runtime)
    return table


def over_ssh(args: Args, space: Space, output: Path) -> LatencyTable:
    """Emit, run and collect in one go; the device keeps what it has measured until then."""
    with TemporaryDirectory() as folder:
        packed, samples = Path(folder, "bundle.tar"), Path(folder, "samples.json")
        emit(args, space, output, packed)
        name = hashlib.sha256(packed.read_bytes()).hexdigest()[:16]
        remote.over_ssh(packed, name, args.device, args.cores, samples, args.quiet)
        table = collect(dataclasses.replace(args, collect=samples), space)
    forget_networks(find_runtime(args, output))
    return table


def emit(args: Args, space: Space, output: Path, target: Path) -> None:
    """Convert layers and whole networks, and pack them with the agent."""
    runtime = find_runtime(args, output)
    if not isinstance(runtime, FileRuntime):
        raise UserError(
            f"--runtime {runtime.name} cannot leave this machine: expected onnxruntime, litert or executorch"
        )
    header = {**settings(space, runtime, find_protocol(args)), "runtime": {"name": runtime.name, "form": runtime.form}}
    layer_files = runtime.convert(list(unique_layers(space, runtime)), shown(not args.quiet))
    networks = list(whole_networks(args, space, runtime, archs_of(args, space)))
    network_files = runtime.convert(networks, shown(not args.quiet))
    package = agent.RUNTIMES[runtime.name][1]
    readme = bundle.README.format(package=package, flags=common.run_flag(args.run))
    files.write_atomically(target, lambda file: bundle.write(file, header, layer_files, network_files, readme))
    if args.emit:
        forget_networks(runtime)
        common.console.print(f"bundle → {target}; its README says what to do with it", highlight=False)


def collect(args: Args, space: Space) -> LatencyTable:
    """The table of the device that the agent ran on."""
    specs = {spec.key for spec in unique(layout(space))}
    samples = bundle.read_samples(args.collect, space.fingerprint, specs)
    return table_of(space, samples.header, samples.layers, samples.networks, samples.protocol)


def table_of(space: Space, header: dict, layers: dict, networks: dict, protocol: Protocol) -> LatencyTable:
    """The table that visits make, calibrated on the first whole networks and checked on the others."""
    header = {**header, "input": tuple(header["input"])}
    table = LatencyTable(**header, operations={key: summarise(visits, protocol) for key, visits in layers.items()})
    checks = checked(space, table, {key: summarise(visits, protocol) for key, visits in networks.items()})
    return table.calibrated(checks[:FIT_ARCHS], checks[FIT_ARCHS:])


def settings(space: Space, runtime: Runtime, protocol: Protocol) -> dict[str, Any]:
    """What of a table's header does not depend on the device."""
    return {
        "space": {"name": space.name, "fingerprint": space.fingerprint},
        "batch": runtime.batch,
        "threads": runtime.threads,
        "input": (space.channels, space.resolution, space.resolution),
        "protocol": dataclasses.asdict(protocol),
    }


def find_runtime(args: Args, output: Path) -> Runtime:
    """What runs the layers. Converted ones are kept in ``converted/`` beside the table."""
    if args.device not in ("cpu", "cuda", "cuda-graph", "adb") and not args.device.startswith("ssh://"):
        raise UserError(f"--device {args.device}: expected cpu, cuda, cuda-graph, ssh://user@host or adb")
    cache = output.parent / "converted"
    if args.device == "adb":
        if args.runtime not in (None, "litert"):
            raise UserError(f"--device adb runs litert's benchmark_model, not {args.runtime}: leave --runtime away")
        return remote.AdbRuntime(args.batch, args.threads, args.cores, cache)
    plain = args.kernels == "eager" and not args.device.startswith("cuda")
    name = args.runtime or (runtimes.default() if plain else "torch")
    options = {"kernels": args.kernels, "batch": args.batch, "threads": args.threads}
    options["device"] = "cpu" if args.device.startswith("ssh://") else args.device
    if name in runtimes.SUFFIXES:
        options["cache"] = cache
    return runtimes.get(name, **options)


def find_protocol(args: Args) -> Protocol:
    """A visit over adb is one call: benchmark_model warms up and takes the mean itself."""
    return Protocol(rounds=args.rounds, chunks=1) if args.device == "adb" else Protocol(rounds=args.rounds)


def device(runtime: Runtime, core: int | str | None) -> dict[str, Any]:
    """What the table says of the machine that runs."""
    return runtime.host() if isinstance(runtime, remote.AdbRuntime) else {**host(), "core": core}


def forget_networks(runtime: Runtime) -> None:
    """Whole networks take much space and serve one build; converted layers serve the next one too."""
    if isinstance(runtime, FileRuntime):
        shutil.rmtree(runtime.cache / "networks", ignore_errors=True)


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
                common.console.print(f"starting again: {error}", style="yellow", highlight=False, soft_wrap=True)
        self.save()  # an unwritable folder shows before anything is measured

    def _read(self) -> None:
        data = files.read_json(self.path, "unfinished latency table", "run this command again")
        if data["header"] != {**self.header, "input": list(self.header["input"])}:
            raise UserError(f"{self.path} is of another space, other settings or another machine")
        for visits in (*data["layers"].values(), *data["networks"].values()):
            if not all(wall > 0 and (cpu is None or cpu >= 0) for wall, cpu in visits):
                raise ValueError(f"{self.path} is damaged")
        self.layers, self.networks = data["layers"], data["networks"]

    def save(self) -> None:
        files.write_json(self.path, {"header": self.header, "layers": self.layers, "networks": self.networks})


def check(args: Args, space: Space, table: LatencyTable) -> None:
    """Measure architectures that the table has not seen, by its own runtime, and print the error."""
    if args.device.startswith("ssh://"):
        raise UserError("a table is checked over ssh when it is built: run the same command without --check")
    runtime = find_runtime(args, args.check) if args.device == "adb" else runtimes.of_table(table)
    seen = {c.arch for c in table.calibration.fitted_on} if table.calibration else set()
    archs = spread(space, args.check_archs, args.seed + 1, seen)
    protocol = find_protocol(args)
    with pinned(args, runtime) as core:
        here, described = device(runtime, core), runtime.describe()
        if (here, described) != (table.device, table.runtime):
            common.console.print(
                f"{table.source} was measured on {table.device['cpu']} with {table.runtime['name']} "
                f"{table.runtime['version']}; this is {here['cpu']} with {described['version']}, or set "
                "up differently",
                style="yellow",
                highlight=False,
            )
        networks = whole_networks(args, space, runtime, archs)
        samples = timed(args, runtime, networks, protocol, "whole networks", {}, lambda: None)
    checks = checked(space, table, samples)
    grid = Table("architecture", "predicted ms", "measured ms", "error")
    predictions = [table.predict(spec.key for spec in lower(space, c.arch)) for c in checks]
    for c, predicted in sorted(zip(checks, predictions, strict=True), key=lambda pair: pair[0].measured_ms):
        error = f"{100 * (predicted / c.measured_ms - 1):+.1f} %{' (noisy)' if c.noisy else ''}"
        grid.add_row(space.describe(c.arch), f"{predicted:.3f}", f"{c.measured_ms:.3f}", error)
    common.console.print(grid)
    errors = report(predictions, [c.measured_ms for c in checks])
    common.console.print(f"{len(checks)} architectures: {tables.in_words(*errors)}", highlight=False)


def checked(space: Space, table: LatencyTable, samples: dict[str, Samples]) -> list[Check]:
    """Whole networks beside what the table's layers add up to; keys are architectures, ``0,2,1``.

    Raises:
        UserError: a key that is no architecture of the space: samples come from another machine.
    """
    raw = dataclasses.replace(table, calibration=None)
    checks = []
    for key, sample in samples.items():
        if not all(part.isdigit() for part in key.split(",")):
            raise UserError(f"expected an architecture such as 0,2,1, got {key!r}: run the agent again")
        arch = space.check([int(part) for part in key.split(",")])
        keys = [spec.key for spec in lower(space, arch)]
        checks.append(Check(arch, len(keys), raw.predict(keys), sample.median_ms, sample.noisy))
    return checks


def whole_networks(args: Args, space: Space, runtime: Runtime, archs: list[Arch]) -> Iterable[Layer]:
    """Networks to be measured whole, interleaved with one another."""
    shape = (space.channels, space.resolution, space.resolution)
    for arch in archs:
        yield Layer(",".join(map(str, arch)), runtimes.whole(space, arch, runtime.kernels, args.seed), shape)


def unique_layers(space: Space, runtime: Runtime) -> Iterable[Layer]:
    """Every layer to be measured alone."""
    for spec in unique(layout(space)):
        yield Layer(spec.key, spec.build(kernels=runtime.kernels), (spec.in_channels, spec.size, spec.size))


def archs_of(args: Args, space: Space) -> list[Arch]:
    """The architectures to be measured whole: five from small to large calibrate, then those that check it."""
    archs = spread(space, FIT_ARCHS + args.check_archs, args.seed)
    fit = {round(i) for i in np.linspace(0, len(archs) - 1, FIT_ARCHS)}
    return [arch for part in (True, False) for i, arch in enumerate(archs) if (i in fit) == part]


def timed(
    args: Args,
    runtime: Runtime,
    modules: Iterable[Layer],
    protocol: Protocol,
    what: str,
    taken: dict[str, list],
    save: Callable[[], None],
) -> dict[str, Samples]:
    """``time_modules`` with a progress bar for each of its passes."""
    options = {"taken": taken, "save": save, "seed": args.seed}
    return runtimes.time_modules(runtime, modules, protocol, shown(not args.quiet), what, **options)


def pinned(args: Args, runtime: Runtime):
    """One core for one thread, or those that were asked for."""
    if isinstance(runtime, remote.AdbRuntime):
        return nullcontext()
    cores = parse_cores(args.cores) if args.cores else None
    return pin_core(cores) if cores or (args.pin and runtime.threads == 1) else nullcontext()


def unique(specs: Layers | Stages) -> list[LayerSpec]:
    """Every layer that runs anything, once; a gene's pruned layers too, so that the table serves the whole space."""
    return list({spec.key: spec for spec in specs.every() if spec.runs}.values())


def spread(space: Space, n: int, seed: int, known: Collection[Arch] = ()) -> list[Arch]:
    """Up to ``n`` architectures that are not ``known``, a random one of each of ``n`` equal intervals of multiply-adds.

    A bound may lie anywhere between the smallest network and the largest; uniform draws gather in the middle. Where an
    interval is empty another one gives two; fewer where the space has no more.
    """
    rng = np.random.default_rng(seed)
    cost = AdditiveCost(*layout(space).priced(lambda spec: spec.flops))
    edges = np.linspace(*cost.bounds(space), n + 1)
    found: list[Arch] = []

    def draw(low: float, high: float, wanted: int) -> None:
        window = Window(space, {"flops": cost}, {"flops": (low, high)})
        found.extend(window.sample(rng, wanted, {*known, *found}, tries=100))

    for low, high in itertools.pairwise(edges):
        draw(low, high, 1)
    draw(edges[0], edges[-1], n - len(found))
    return found


def main() -> None:
    """The command line."""
    common.main(run, Args)
