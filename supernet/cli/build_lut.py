"""Measure the latency of every candidate layer, here or on another device, and check the sums on whole networks."""

from __future__ import annotations

import dataclasses
import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from supernet.cli import common, numbers, report, starting
from supernet.errors import UserError
from supernet.plugins import is_reference, is_registered
from supernet.progress import shown
from supernet.quantities import digits, several
from supernet.tables import Table

if TYPE_CHECKING:
    from latency.build import Build, Sampling
    from latency.runtimes import Runtime
    from latency.table import LatencyTable
    from supernet.runs import RunFolder
    from supernet.space import Space


@dataclass(frozen=True)
class Place:
    """Options of where layers run."""

    topic: ClassVar[str] = "device"
    runtime: Annotated[str | None, common.UNSET] = None
    """torch, onnxruntime, litert, executorch, openvino, tensorrt (trtexec on PATH) or yours; defaults to onnxruntime
    if available, else torch."""
    precision: Literal["float32", "int8"] = "float32"
    """int8 measures quantised layers: what `export.py --int8` writes. For onnxruntime, litert and executorch."""
    kernels: Literal["eager", "fused"] = "eager"
    """With torch: plain PyTorch, as a saved network runs anywhere, or the project's operators."""
    device: str = "cpu"
    """cpu, cuda or cuda-graph (torch); ssh://user@host; adb: an Android device with benchmark_model."""
    batch: int = 1
    """Batch size."""
    threads: int = 1
    """CPU threads."""
    pin: bool = True
    """Stay on one core, if there is one thread."""
    cores: Annotated[str | None, common.UNSET] = None
    """Stay on these cores, e.g. 4 or 4-7, also on another device; defaults to the fastest one."""


@dataclass(frozen=True)
class Measuring:
    """Options of what is measured."""

    topic: ClassVar[str] = "measuring"
    rounds: int = 12
    """Visits of each layer, in shuffled order, 10 ms each; at least 10."""
    layers: Annotated[int | None, common.UNSET] = None
    """Measure at most this many layers, predict the others; defaults to all, to 400 of a space of over 5,000."""
    error: Annotated[float | None, common.UNSET] = None
    """Stop measuring layers when whole networks are predicted within this many percent, of their mean; 3 if sampled."""
    check_archs: int = 8
    """Random architectures, from small to large, held out to state the error; five more calibrate."""
    seed: int = 0
    """Random seed of the order and of the architectures."""
    emit: Annotated[Path | None, common.UNSET] = None
    """Measure nothing: write a bundle of converted layers with an agent that times them on any device."""
    collect: Annotated[Path | None, common.UNSET] = None
    """Measure nothing: make the table from what the agent wrote."""
    check: Annotated[Path | None, common.UNSET] = None
    """Build nothing: measure whole networks and compare them with this table, as it was measured."""


@dataclass(frozen=True)
class Args(common.Answering, Measuring, Place):
    run: common.Folder = common.DEFAULT_RUN
    """Run folder; the same command continues a build that was stopped."""
    space: Annotated[str | None, common.UNSET] = None
    """Space: a name (1×28² if it ends in -small, else 3×224²), a .json, or FILE.py:function; defaults to the run's."""
    resolution: Annotated[numbers.Pixels | None, common.UNSET] = None
    """With --space: pixels of the images, of a square or HEIGHTxWIDTH such as 96x160."""
    data: Annotated[str | None, common.UNSET] = None
    """Code of the run's images, FILE.py:function: not needed here, but passed on to the next command."""
    output: Annotated[Path | None, common.UNSET] = None
    """Output table; defaults to RUN/lut.json."""
    quiet: bool = False
    """Show no progress."""


def run(args: Args) -> None:
    from latency import build
    from latency.table import LatencyTable
    from supernet.runs import RunFolder

    build.protocol_for(args.device, args.rounds, args.runtime)  # refuses too few
    if args.check_archs < 2:
        raise UserError(f"--check-archs {args.check_archs}: expected at least 2")
    if args.layers is not None and args.layers < 1:
        raise UserError(f"--layers {args.layers}: expected at least 1")
    if args.error is not None and not 0 < args.error < 100:
        raise UserError(f"--error {args.error:g}: expected a percentage between 0 and 100, such as 3")
    if args.check and args.space is None and RunFolder(args.check.parent).space_path.exists():
        args = dataclasses.replace(args, run=args.check.parent)
    folder = common.open_run(args)
    space = find_space(args, folder)
    output = args.output or folder.lut_path
    if args.check:
        known = LatencyTable.load(args.check, space)
        if args.precision == "int8" != known.precision:
            raise UserError(f"--precision int8: {args.check} is of {known.precision} layers, its networks are, too")
        if args.device.startswith("ssh://"):
            raise UserError("a table is checked over ssh when it is built: run the same command without --check")
        checks = prepare(args, space, args.check, known).check(known)
        grid, error = build.check_table(space, known, checks)
        common.show(grid)
        common.say(f"{several(len(checks), 'architecture')}: {error}")
        common.answer(args, [dataclasses.asdict(check) for check in checks])
        return
    if args.output:
        require_replaceable(args.output)
    with folder.lock(output):
        if args.emit:
            job = prepare(args, space, output)
            job.emit(args.emit, readme(args))
            job.forget_networks()
            common.answer(args, {"bundle": str(args.emit)})
            common.tell(f"bundle → {args.emit}; its README says what to do with it")
            return
        table = measured(args, space, output)
        build.write(table, output)
    show(args, folder, space, output, table)
    common.answer(args, output)


def require_replaceable(output: Path) -> None:
    """Refuse to write a table over something else."""
    if output.is_dir() or (output.exists() and b'"operations"' not in output.read_bytes()):
        raise UserError(f"{output} is no latency table: choose another --output, or delete it")


def measured(args: Args, space: Space, output: Path) -> LatencyTable:
    """The table of this machine, of a device, or of what its agent wrote."""
    from latency import build

    if args.collect:
        return build.collect(space, args.collect)
    if args.device.startswith("ssh://"):
        told = None if args.quiet else functools.partial(print, file=sys.stderr, flush=True)
        return prepare(args, space, output).over_ssh(args.device, readme(args), told)
    return prepare(args, space, output).here(output)


def prepare(args: Args, space: Space, output: Path, table: LatencyTable | None = None) -> Build:
    """What is to be measured, and how: layers and networks, or other networks than those of a ``table``."""
    from latency import build, runtimes
    from search import spread

    if table is None:
        archs = spread.calibration_archs(space, build.FIT_ARCHS, args.check_archs, args.seed)
    else:
        seen = {c.arch for c in table.calibration.fitted_on} if table.calibration else set()
        archs = spread.spread(space, args.check_archs, args.seed + 1, seen)
    runtime: Runtime
    if table is None or args.device == "adb":
        options = (args.kernels, args.batch, args.threads, args.cores)
        more: dict[str, Any] = {"cache": output.parent / "converted", "precision": (table or args).precision}
        runtime = build.runtime_for(args.device, args.runtime, *options, **more)
    else:
        runtime = runtimes.of_table(table)
    protocol, pinned = build.protocol_for(args.device, args.rounds, runtime.name), (args.cores, args.pin)
    told = (shown(not args.quiet), common.warn)
    return build.Build(
        space, runtime, protocol, archs, args.seed, *pinned, *told, sampling=None if table else sampling(args, space)
    )


def sampling(args: Args, space: Space) -> Sampling | None:
    """How many layers are measured; None: all."""
    from latency.build import MOST_LAYERS, MOST_PREDICTED, Sampling, unique

    if args.layers is None and args.error is None and len(unique(space, MOST_PREDICTED)) <= MOST_LAYERS:
        return None
    wanted = Sampling()
    error = wanted.error if args.error is None else args.error / 100
    return Sampling(wanted.layers if args.layers is None else args.layers, error)


def readme(args: Args) -> str:
    """What the bundle tells the user of the device."""
    from latency import bundle

    return bundle.README.replace("{collect}", common.command("build_lut", args, "--collect", "samples.json"))


def find_space(args: Args, folder: RunFolder) -> Space:
    """The run's space, or the one that was asked for if the run has no other."""
    from supernet import spaces

    known, named = folder.space_path.exists(), args.space or ""
    same = known and is_registered(named) and args.output is None and folder.space().model == named
    if args.space is None or (is_reference(args.space) and known) or same:
        space = folder.space()
        if args.resolution not in (None, space.input_size):
            raise UserError(f"--resolution {args.resolution.plain}: the run's images have {space.input_size} pixels")
        return space
    space = spaces.usual(args.space, args.resolution)
    if known and args.output is None:
        own = folder.space()
        if own.fingerprint != space.fingerprint:
            raise UserError(
                f"--space {args.space} is {space.name} ({space.fingerprint}), the run {args.run} has "
                f"{own.name} ({own.fingerprint}): leave --space away, or write elsewhere with --output"
            )
    return space


def show(args: Args, folder: RunFolder, space: Space, output: Path, table: LatencyTable) -> None:
    """What was measured, and what to do with it."""
    from search import priced

    latency, noisy = priced.additive(space, table.price), table.quality["share_noisy"]
    low, high = latency.bounds(space)
    median = digits(priced.median(space, latency))
    range_ = f"{digits(low)} to {digits(high)} ms over {space.name}; median of 1,000 random architectures {median} ms"
    common.tell(f"latency table → {output}")
    common.show(Table((), [*table.describe().items(), ("latency", range_)], text=2))
    if noisy > 1 / 5:
        common.warn(
            "the machine was too busy for a good table: close what else runs, or move to a quiet machine, "
            "and build it again"
        )
    if folder.arch_path.exists():  # of a search that ends with one network: there is no supernet to be searched
        predicted = table.predict_arch(space, space.check(folder.found()["arch"]))
        common.tell(f"the network of {folder.arch_path}: {digits(predicted)} ms predicted")
    elif not folder.space_path.exists():  # a space alone, nothing trained
        common.next_command("build_lut", None, *common.words(args, "space", "resolution"), "--check", output)
    else:
        common.next_command("evolve", args, after=("--lat-max", f"{priced.default_bound(low, high):.3g}"))


main = starting.entry(run, Args, after=report.leave_page)
