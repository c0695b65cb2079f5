"""How a latency table is built: layers alone, then whole networks that calibrate and check it; here or by an agent.

What was measured is kept beside the table until it is whole, so that a killed build goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from latency import agent, bundle, regression, remote, runtimes, sample
from latency.converter import Converter, Layer
from latency.measure import Protocol, Samples, chained, company, host, parse_cores, pin_core, summarise
from latency.partial import Partial, Visits, partial_path
from latency.runtimes import Runtime
from latency.table import Check, LatencyTable, error_in_words, report
from supernet import files
from supernet.errors import UserError
from supernet.families import layout, lower
from supernet.footprint import Precision
from supernet.progress import Progress, counted, silent
from supernet.quantities import several
from supernet.space import Arch, Space
from supernet.spec import LayerSpec
from supernet.tables import Table

FIT_ARCHS = 5  # whole networks that scale and overhead are fitted on
MOST_LAYERS = 5000  # of a space, that are measured
MOST_PREDICTED = 1_000_000  # of a space, that a table lists
GROWTH = 1.5  # of a sample, from one fit to the next
HOPELESS = 10  # times the gate: half of all layers differ by more between two halves of their visits


@dataclass(frozen=True)
class Sampling:
    """Measure some of the layers, and predict the others: at most ``layers``, fewer if ``error`` is met before.

    Args:
        error: mean relative error of whole networks that is small enough, in (0, 1).
    """

    layers: int = 400
    error: float = 0.03


@dataclass(frozen=True)
class Build:
    """What is measured, and how.

    Args:
        archs: networks to be measured whole; the first ``FIT_ARCHS`` calibrate, the others check.
        cores: to stay on, as ``0`` or ``4-7``; None: the fastest one for one thread.
        pin: stay on one core, with one thread.
        sampling: None: measure every layer.
        note: told what a person should know, such as an unfinished build that is not continued.
    """

    space: Space
    runtime: Runtime
    protocol: Protocol
    archs: Sequence[Arch]
    seed: int = 0
    cores: str | None = None
    pin: bool = True
    progress: Progress = silent
    note: Callable[[str], None] = lambda text: None
    sampling: Sampling | None = None

    def settings(self) -> dict[str, Any]:
        """What of a table's header does not depend on the device."""
        space = self.space
        return {
            "space": {"name": space.name, "fingerprint": space.fingerprint},
            "batch": self.runtime.batch,
            "threads": self.runtime.threads,
            "input": (space.channels, *space.input_size),
            "protocol": dataclasses.asdict(self.protocol),
        }

    def here(self, output: Path) -> LatencyTable:
        """Measure on this machine, or on a device that the runtime reaches, or continue.

        Args:
            output: where the table will lie; ``*.partial.json`` beside it holds what was measured.
        """
        with self.pinned() as core:
            header = {**self.settings(), "device": self.device(core), "runtime": self.runtime.describe()}
            chosen = self.first()  # refuses before anything is measured
            partial = Partial(partial_path(output), header, self.note)
            self.time(self.layers(chosen), "layers", partial.visits(0, chosen), partial.save)
            self.time(self.networks(), "whole networks", partial.networks, partial.save)
            table = self.grown(header, partial)
        self.forget_networks()
        return table

    def first(self, share: float = 1 / GROWTH**2) -> list[LayerSpec]:
        """The layers to begin with: all, or of a sample this share, if that is enough to cover the space."""
        specs = unique(self.space, MOST_PREDICTED if self.sampling else MOST_LAYERS)
        if self.sampling is None or len(specs) <= self.sampling.layers:
            return specs
        least = sample.least(specs)
        if self.sampling.layers < least:
            raise UserError(
                f"{several(self.sampling.layers, 'layer is', 'layers are')} too few for a table of "
                f"{self.space.name}, which has {len(specs)}: expected at least {least}, two of each kind and "
                f"{sample.FEW} of each operation"
            )
        return sample.first(specs, max(least, round(share * self.sampling.layers)))

    def grown(self, header: dict, partial: Partial) -> LatencyTable:
        """The table of the layers of the first pass, and of more while whole networks are off by too much.

        What comes next follows from what was measured, so a build that goes on after a kill takes the same way. Each
        pass visits some layers of the first one again: by then the machine may be faster or slower.
        """
        passes = 1
        while True:
            measured = partial.layers[:passes]
            table, doubt = table_of(self.space, header, measured, partial.networks, self.protocol, self.progress)
            error = table.calibration.held_out_mape if table.calibration else None
            if self.sampling is None or not doubt or (error is not None and error <= self.sampling.error):
                return table
            known, most = table.operations.keys(), self.sampling.layers
            if len(known) >= most:
                if error is not None:
                    self.note(
                        f"{most} layers predict whole networks within {100 * error:.1f} %, "
                        f"not {100 * self.sampling.error:g} %: measure more"
                    )
                return table
            specs = unique(self.space, MOST_PREDICTED)
            again = set(company(list(measured[0])))
            more = sample.further(specs, known, min(most, round(GROWTH * len(known))) - len(known), doubt)
            chosen = [*(spec for spec in specs if spec.key in again), *more]
            visits = partial.visits(passes, chosen)
            self.time(self.layers(chosen), several(len(more), "more layer"), visits, partial.save)
            passes += 1

    def over_ssh(self, url: str, readme: str, told: Callable[[str], None] | None = None) -> LatencyTable:
        """Emit, run and collect in one go; the device keeps what it has measured until then.

        A bundle of nothing goes first, so that what the device lacks is told before minutes of converting.

        Args:
            told: called with each line of the agent's progress.
        """
        with TemporaryDirectory() as folder:
            packed, samples = Path(folder, "bundle.tar"), Path(folder, "samples.json")
            for emit, tell in ((self.emit_nothing, None), (self.emit, told)):
                emit(packed, readme)
                name = hashlib.sha256(packed.read_bytes()).hexdigest()[:16]
                remote.over_ssh(packed, name, url, self.cores, samples, tell)
            table = collect(self.space, samples)
        self.forget_networks()
        return table

    def emit(self, target: Path, readme: str) -> None:
        """Convert layers and whole networks, and pack them with the agent and a ``readme`` for its user."""
        runtime = self.converter
        layers = runtime.convert(list(self.layers(self.first(1.0))), self.progress)  # a device cannot ask for more
        self.pack(target, readme, layers, runtime.convert(list(self.networks()), self.progress))

    def emit_nothing(self, target: Path, readme: str) -> None:
        """Pack the agent alone: what it needs is looked for, and nothing is timed."""
        self.pack(target, readme, {}, {})

    def pack(self, target: Path, readme: str, layers: Mapping[str, Path], networks: Mapping[str, Path]) -> None:
        """Pack converted files by the keys of layers, and by architectures."""
        runtime = self.converter
        about = {"name": runtime.name, "options": runtime.options, "form": runtime.form}
        header = {**self.settings(), "runtime": about}
        package = "tensorrt" if runtime.name == agent.TENSORRT else agent.RUNTIMES[runtime.name][1]
        readme = readme.format(package=package)
        files.write_atomically(target, lambda file: bundle.write(file, header, layers, networks, readme))

    @property
    def converter(self) -> Converter:
        """The runtime, if it runs files."""
        if isinstance(self.runtime, Converter):
            return self.runtime
        known = ", ".join(runtimes.SUFFIXES)
        raise UserError(f"runtime {self.runtime.name} cannot leave this machine: expected one of {known}")

    def check(self, table: LatencyTable) -> list[Check]:
        """Measure the networks by the table's runtime, and set them beside what its layers add up to."""
        with self.pinned() as core:
            here, described = self.device(core), self.runtime.describe()
            if (here, described) != (table.device, table.runtime):
                self.note(
                    f"{table.source} was measured on {table.device['cpu']} with {table.runtime['name']} "
                    f"{table.runtime['version']}; this is {here['cpu']} with {described['version']}, or set "
                    "up differently"
                )
            samples = self.time(self.networks(), "whole networks", {}, lambda: None)
        return checked(self.space, table, samples)

    def layers(self, specs: Iterable[LayerSpec]) -> Iterator[Layer]:
        """Layers to be measured alone."""
        for spec in specs:
            inner = spec.in_channels != self.space.channels  # the others take images
            yield Layer(spec.key, spec.measured(self.runtime.kernels), spec.input_shape, inner)

    def networks(self) -> Iterator[Layer]:
        """Networks to be measured whole, interleaved with one another."""
        for arch in counted(self.progress, "building whole networks", self.archs, "networks"):
            network = runtimes.whole(self.space, arch, self.runtime.kernels, self.seed)
            yield Layer(",".join(map(str, arch)), network, network.input_shape)

    def time(self, modules: Iterable[Layer], what: str, taken: Visits, save: Callable[[], None]) -> dict[str, Samples]:
        """Time modules against one another; what is ``taken`` already is not measured again."""
        options = {"taken": taken, "save": save, "seed": self.seed}
        return runtimes.time_modules(self.runtime, modules, self.protocol, self.progress, what, **options)

    def device(self, core: int | str | None) -> dict[str, Any]:
        """What the table says of the machine that runs."""
        runtime = self.runtime
        return runtime.host() if isinstance(runtime, remote.AdbRuntime) else {**host(), "core": core}

    def pinned(self) -> AbstractContextManager:
        """One core for one thread, or those that were asked for."""
        if isinstance(self.runtime, remote.AdbRuntime):
            return nullcontext()
        cores = parse_cores(self.cores) if self.cores else None
        return pin_core(cores) if cores or (self.pin and self.runtime.threads == 1) else nullcontext()

    def forget_networks(self) -> None:
        """Whole networks take much space and serve one build; converted layers serve the next one too."""
        if isinstance(self.runtime, Converter) and self.runtime.cache is not None:
            shutil.rmtree(self.runtime.cache / "networks", ignore_errors=True)


def runtime_for(
    device: str,
    name: str | None,
    kernels: str,
    batch: int,
    threads: int,
    cores: str | None,
    *,
    cache: Path,
    precision: Precision = "float32",
) -> Runtime:
    """What runs the layers on a device.

    Args:
        device: cpu, cuda, cuda-graph, ssh://user@host, or adb.
        name: of the runtime; by default that of ``runtimes.default`` for eager modules on a CPU, else torch.
        cache: for converted layers.

    Raises:
        UserError: another device, or a runtime that does not run there.
    """
    if device not in ("cpu", "cuda", "cuda-graph", "adb") and not device.startswith("ssh://"):
        raise UserError(f"device {device}: expected cpu, cuda, cuda-graph, ssh://user@host or adb")
    if device == "adb":
        if name not in (None, "litert"):
            raise UserError(f"device adb runs litert's benchmark_model, not {name}: name no other runtime")
        return remote.AdbRuntime(batch, threads, cores, cache, precision)
    plain = kernels == "eager" and not device.startswith("cuda")
    name = name or (runtimes.default() if plain else "torch")
    # Ours that run files convert, and those of other packages may.
    converted: dict[str, Any] = {"cache": cache} if name in runtimes.SUFFIXES or name not in runtimes.RUNTIMES else {}
    converted |= {} if precision == "float32" else {"precision": precision}
    where = "cpu" if device.startswith("ssh://") else device
    return runtimes.get(name, kernels=kernels, device=where, batch=batch, threads=threads, **converted)


def protocol_for(device: str, rounds: int, name: str | None = None) -> Protocol:
    """How to time on a device: a visit over adb, or by trtexec, is one call, since the program warms up and takes the
    mean itself.

    Raises:
        UserError: fewer than 10 rounds.
    """
    if rounds < 10:
        raise UserError(f"rounds {rounds}: expected at least 10, fewer do not tell noise from latency")
    of_itself = device == "adb" or name == agent.TENSORRT
    return Protocol(rounds=rounds, chunks=1, settle_runs=0) if of_itself else Protocol(rounds=rounds)


def write_default(
    space: Space, archs: Sequence[Arch], output: Path, progress: Progress, note: Callable[[str], None]
) -> None:
    """Measure a table of this machine by its default runtime, batch 1, one thread, and write it.

    Args:
        output: the table; ``converted/`` beside it keeps converted layers.
    """
    runtime = runtime_for("cpu", None, "eager", 1, 1, None, cache=output.parent / "converted")
    job = Build(space, runtime, Protocol(rounds=12), archs, progress=progress, note=note)
    write(job.here(output), output)


def collect(space: Space, samples: Path) -> LatencyTable:
    """The table of the device that the agent ran on."""
    specs = unique(space, MOST_PREDICTED)
    found = bundle.read_samples(samples, space.fingerprint, {spec.key for spec in specs}, sample.covered(specs))
    return table_of(space, found.header, [found.layers], found.networks, found.protocol)[0]


def table_of(
    space: Space,
    header: dict,
    layers: Sequence[Visits],
    networks: Visits,
    protocol: Protocol,
    progress: Progress = silent,
) -> tuple[LatencyTable, dict[str, float]]:
    """The table that visits make, calibrated on the first whole networks and checked on the others.

    Args:
        layers: the visits of each pass.
        progress: of learning to predict layers.

    Returns also by how many ms the prediction of each layer that was not measured is unsure.
    """
    header = {**header, "input": tuple(header["input"])}
    table = LatencyTable(**header, operations=chained(layers, protocol))
    specs = unique(space, MOST_PREDICTED)
    doubt: dict[str, float] = {}
    if len(specs) > len(table.operations):
        measured = {key: samples.median_ms for key, samples in table.operations.items()}
        predictions, doubt = regression.predict(specs, measured, progress)
        table = dataclasses.replace(table, predictions=predictions)
    checks = checked(space, table, summarise(networks, protocol))
    return table.calibrated(checks[:FIT_ARCHS], checks[FIT_ARCHS:]), doubt


def checked(space: Space, table: LatencyTable, samples: dict[str, Samples]) -> list[Check]:
    """Whole networks beside what the table's layers add up to; keys are architectures, ``0,2,1``.

    Raises:
        UserError: a key that is no architecture of the space: samples come from another machine.
    """
    raw = dataclasses.replace(table, calibration=None)
    checks = []
    for key, found in samples.items():
        if not all(part.isdecimal() and len(part) < 10 for part in key.split(",")):
            raise UserError(f"expected an architecture such as 0,2,1, got {key!r:.80}: run the agent again")
        arch = space.check([int(part) for part in key.split(",")])
        keys = [spec.key for spec in lower(space, arch)]
        checks.append(Check(arch, len(keys), raw.predict(keys), found.median_ms, found.noisy))
    return checks


def unique(space: Space, most: int = MOST_LAYERS) -> list[LayerSpec]:
    """Every layer that runs anything, once; a gene's pruned layers too, so that the table serves the whole space.

    Raises:
        UserError: there are more than ``most``.
    """
    found: dict[str, LayerSpec] = {}
    for spec in layout(space).every():
        if spec.runs:
            found.setdefault(spec.key, spec)
        if len(found) > most:
            raise UserError(
                f"space {space.name} has over {most} different layers, too many to list: open fewer choices of it in a "
                ".json, or search by multiply-adds and parameters, which need no table"
            )
    return list(found.values())


def write(table: LatencyTable, output: Path) -> None:
    """Write the table, unless it is worth nothing."""
    median, gate = table.quality["median_aa"], table.protocol["gate"]
    if median > HOPELESS * gate:
        partial_path(output).unlink(missing_ok=True)
        raise UserError(
            f"the clock is too noisy: half of the layers differ by over {100 * median:.0f} % between two halves of "
            f"their visits, {100 * gate:g} % is the aim; close what else runs and build again ({output} is untouched)"
        )
    files.write_json(output, table.to_json())
    partial_path(output).unlink(missing_ok=True)


def check_table(space: Space, table: LatencyTable, checks: Sequence[Check]) -> tuple[Table, str]:
    """Predicted and measured latencies of whole networks, the fastest first, and in words how well they agree."""
    predictions = [table.predict(spec.key for spec in lower(space, c.arch)) for c in checks]
    rows = []
    for c, predicted in sorted(zip(checks, predictions, strict=True), key=lambda pair: pair[0].measured_ms):
        error = f"{100 * (predicted / c.measured_ms - 1):+.1f} %{' (noisy)' if c.noisy else ''}"
        rows.append([space.describe(c.arch), f"{predicted:.3f}", f"{c.measured_ms:.3f}", error])
    errors = report(predictions, [c.measured_ms for c in checks])
    return Table(["architecture", "predicted ms", "measured ms", "error"], rows), error_in_words(*errors)
