"""What the searches of a supernet share: their options, costs, window, and what they print."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar

import tyro

from supernet import machine
from supernet.cli import common
from supernet.errors import UserError
from supernet.metrics import NAMES, percent
from supernet.quantities import digits, several
from supernet.training.measured import Wish

if TYPE_CHECKING:
    from latency.table import LatencyTable
    from search.ask_tell import Budget, Record
    from search.costs import TableCost
    from search.run import Scoring, SearchRun
    from supernet.footprint import Precision
    from supernet.space import Arch, Space

B = TypeVar("B", bound="Budget")
Bounds = dict[str, tuple[float, float]]
Objective = Literal["latency", "flops", "params", "activations", "flash", "ram"]
MEMORY: tuple[Objective, ...] = ("flash", "ram")


@dataclass(frozen=True)
class Scored(common.Judged, common.Computing, common.Reading, common.Workers):
    """Options of a search's budget, and of how it scores architectures."""

    topic: ClassVar[str] = "search"
    population: int = 32
    """Architectures per iteration (the papers: CES 64, SPOS 50)."""
    iterations: int = 12
    """Iterations, including the random first one (the papers: CES 40, SPOS 20)."""
    bn: Literal["recalibrated", "batch", "inherited"] = "recalibrated"
    """BN statistics for scoring: recalibrated on training images, of each validation batch, or the supernet's own."""
    recalibration: tuple[int, int] = (8, 128)
    """Batches and images per batch for recalibrating BN."""
    val_limit: Annotated[int | None, common.UNSET] = None
    """Score on a stratified subset of this many validation images."""
    seed: int = 0
    """Random seed of the search."""
    workers: int = machine.cores()
    """Threads that score in parallel, on the CPU, and processes that decode files; defaults to the usable cores."""
    score: Literal["float32", "int8"] = "float32"
    """Numbers that scores are computed by; int8 rounds weights and activations as quantisation would, by plain
    PyTorch."""
    memory: Annotated[str | None, common.UNSET] = None
    """Memory for the images and activations of all threads, such as 4G; defaults to half of what is free."""

    @property
    def scoring(self) -> Scoring:
        """How architectures are scored."""
        from search.run import Scoring
        from supernet.executor import Threads

        workers = self.ray_or(Threads(self.workers))
        memory = None if self.memory is None else machine.memory_size(self.memory, "--memory")
        int8 = self.score == "int8"
        return Scoring(self.bn, self.recalibration, self.val_limit, self.seed, workers, memory, self.metric, int8)

    def wish(self, kernels: Wish) -> Wish:
        """The kernels that scores are computed by; a UserError where they cannot be."""
        if self.score == "int8" and kernels == "fused":
            raise UserError("--score int8 runs plain PyTorch: leave --kernels fused away")
        return "eager" if self.score == "int8" else kernels


@dataclass(frozen=True)
class Small:
    """Options of networks for small devices."""

    topic: ClassVar[str] = "bound"
    flash_max: Annotated[str | None, common.UNSET] = None
    """Bound on the bytes of the network's file, such as 256K."""
    ram_max: Annotated[str | None, common.UNSET] = None
    """Bound on the bytes of working memory at the peak, the image included, such as 64K."""
    precision: Annotated[Literal["float32", "int8"] | None, common.UNSET] = None
    """Precision of the file that these are of; defaults to that of the latency tables, else float32."""

    @property
    def limits(self) -> dict[Objective, float]:
        """The bounds in bytes that there are."""
        given = zip(MEMORY, (self.flash_max, self.ram_max), strict=True)
        return {name: machine.memory_size(text, f"--{name}-max") for name, text in given if text is not None}

    def file_precision(self, luts: Iterable[LatencyTable]) -> Precision:
        """The precision of the file; a UserError where tables are of several, or of another than is wanted."""
        kinds: dict[Precision, str] = {lut.precision: f"{lut.source} is of {lut.precision} layers" for lut in luts}
        if self.precision is not None:
            kinds.setdefault(self.precision, f"--precision {self.precision}")
        if len(kinds) > 1:
            raise UserError(f"{', '.join(kinds.values())}: expected one precision, as a network is written in one")
        return next(iter(kinds), "float32")


@dataclass(frozen=True)
class Window(Small):
    """Options of what a search may find, and of what it minimises."""

    topic: ClassVar[str] = "bound"
    lat_max: Annotated[tuple[float, ...], tyro.conf.UseAppendAction] = ()
    """Latency bound in ms, one for each --lut; defaults to 40 % of the way from the fastest to the slowest network."""
    lat_min: Annotated[tuple[float, ...], tyro.conf.UseAppendAction] = ()
    """Lower end of the latency window in ms, one for each --lut; defaults to 0."""
    flops_max: float = math.inf
    """Bound on multiply-adds. Given alone, the search minimises multiply-adds and needs no latency table."""
    params_max: float = math.inf
    """Bound on parameters. Given alone, the search minimises parameters."""
    activations_max: float = math.inf
    """Bound on activation values alive at the peak, for one image. Given alone, the search minimises them."""
    lut: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """Latency table; repeat for several devices. Defaults to RUN/lut.json."""
    objectives: Annotated[tuple[Objective, ...] | None, common.UNSET] = None
    """Costs to minimise; latency stands for every --lut. Defaults to latency, or to what is bounded if that is not."""

    @property
    def counts(self) -> dict[Objective, float]:
        """The bounds on what is counted, not measured."""
        counted: dict[Objective, float] = {"flops": self.flops_max, "params": self.params_max}
        return {**counted, "activations": self.activations_max, **self.limits}

    @property
    def wanted(self) -> tuple[Objective, ...]:
        """What is to be minimised: the objectives as given, or those that follow from the bounds."""
        if self.objectives is not None:
            return self.objectives
        bounded = tuple(name for name, bound in self.counts.items() if math.isfinite(bound))
        return ("latency",) if self.lat_max or self.lat_min or self.lut or not bounded else bounded

    @property
    def needs_latency(self) -> bool:
        """Whether latency is minimised or bounded; else a table that there is only records it."""
        return bool("latency" in self.wanted or self.lat_max or self.lat_min)


@dataclass(frozen=True)
class SearchArgs(Scored, Window):
    """Options of a search."""

    topic: ClassVar[str] = "search"
    random: int = 32
    """Random architectures of the same window to compare with."""
    eta: Annotated[float | None, common.UNSET] = None
    """Of CES's polynomial mutation: larger means smaller steps; defaults to 3."""
    mutation: Annotated[float | None, common.UNSET] = None
    """Probability that a gene mutates; defaults to 1 over the number of genes (CES), 0.1 (SPOS)."""
    crossover: Annotated[float | None, common.UNSET] = None
    """Probability that two parents of CES are crossed; defaults to 0.9."""

    def budget(self, config: type[B]) -> B:
        """The settings of a search; refuses what it does not have."""
        given = {name: getattr(self, name) for name in ("eta", "mutation", "crossover")}
        given = {name: value for name, value in given.items() if value is not None}
        known = {field.name for field in dataclasses.fields(config)}
        if foreign := [f"--{name}" for name in given if name not in known]:
            raise UserError(f"{', '.join(foreign)}: {config.algorithm} has no such setting; CES has")
        return config(population=self.population, iterations=self.iterations, seed=self.seed, **given)


@dataclass(frozen=True)
class Problem:
    """What is searched for: latency tables and costs by name, the window of these, and those that are minimised."""

    luts: Mapping[str, LatencyTable]
    costs: Mapping[str, TableCost]
    bounds: Bounds
    objectives: Sequence[str]


def problem(args: SearchArgs, default: Path, space: Space) -> Problem:
    """What the options ask for; a UserError where a table lacks a layer, or a bound cannot be met.

    Args:
        default: the latency table where none is given.
    """
    from latency.table import LatencyTable
    from search import priced

    paths = args.lut or ((default,) if args.needs_latency or default.exists() else ())
    names = ["latency", *(f"latency-{i}" for i in range(2, len(paths) + 1))]
    luts = {name: LatencyTable.load(path, space) for name, path in zip(names, paths, strict=False)}
    precision = args.file_precision(luts.values())
    costs = priced.costs(space, {name: lut.price for name, lut in luts.items()})
    costs |= priced.memory(space, precision) if {*MEMORY} & {*args.counts, *args.wanted} else {}
    for flag, values in (("--lat-max", args.lat_max), ("--lat-min", args.lat_min)):
        if len(values) not in (0, len(luts)):
            known = f"{several(len(luts), 'latency table')}; expected one for each"
            raise UserError(f"{flag} is given {several(len(values), 'time')}, for {known}")
    timed = enumerate(luts.items() if args.needs_latency else ())  # other tables are for the record
    bounds: Bounds = {name: latency_window(args, i, space, costs[name], lut) for i, (name, lut) in timed}
    bounds |= {name: (0.0, bound) for name, bound in args.counts.items()}
    objectives = [cost for name in args.wanted for cost in (luts if name == "latency" else [name])]
    return Problem(luts, costs, bounds, objectives)


def latency_window(
    args: SearchArgs, i: int, space: Space, latency: TableCost, lut: LatencyTable
) -> tuple[float, float]:
    """From --lat-min to --lat-max of table ``i``, or to 40 % of the range; says where that does not bind."""
    from search import priced

    given = args.lat_max[i] if args.lat_max else None
    low, high, reason = priced.window(space, latency, args.lat_min[i] if args.lat_min else 0.0, given)
    fastest, slowest = latency.bounds(space)
    source = lut.source if lut.precision == "float32" else f"{lut.source}, {lut.precision}"
    device = lut.device.get("cpu", "this")
    attains = f"{space.name} attains {digits(fastest, 4)} to {digits(slowest, 4)} ms on {device} ({source})"
    common.say(f"latency ≤ [bold]{digits(high, 4)} ms[/bold] ({reason}); {common.escape(attains)}")
    if doubt := lut.doubt(min(high, slowest)):
        common.warn(f"the prediction is uncertain here: {doubt}")
    return low, high


def write(found: SearchRun, random: Sequence[Record], luts: Mapping[str, LatencyTable]) -> None:
    """Write the front with its picture, and tell what a person should know about the search."""
    from search import front as fronts

    front, best, knee, told = found.write(random, {name: lut.named() for name, lut in luts.items()})
    for note in found.search.notes:
        common.tell(note, style="dim")
    common.tell(f"scored {found.evaluator.summary}")
    metric = found.evaluator.metric
    common.show(fronts.table(front, best, knee, tuple(luts), metric))
    common.tell(f"best: one-shot {NAMES[metric]} {percent(told, 'one_shot')}, an interval of 95 %")
    for name, lut in luts.items():
        if rests := rests_on(lut, found.search.space, [record.arch for record in front]):
            common.tell(f"{name}: {rests}")
    if len(random) > 1:
        common.say(fronts.against(front[best], random))
    common.tell(f"→ {found.folder.front_path}, {found.folder.front_picture}")


def rests_on(lut: LatencyTable, space: Space, archs: Sequence[Arch]) -> str:
    """Which share of the latency of networks is of layers that were not measured, in words; none where all were."""
    from supernet import families

    if lut.predictions is None:
        return ""
    shares = [100 * lut.guessed(families.lower(space, arch)) for arch in archs]
    ends = " to ".join(digits(share, 2) for share in sorted({min(shares), max(shares)}))
    told = f"{ends} % of the latency is of layers that {lut.source} predicts, the rest of layers that it measured"
    return told if len(archs) == 1 else f"{told}; {shares.count(0)} of {len(archs)} networks are of these alone"


def show_winners(found: SearchRun, luts: Mapping[str, LatencyTable]) -> None:
    """Predicted latency of the best and of the knee beside that of the whole networks, where a table is of here."""
    from latency import runtimes

    space, archs = found.search.space, found.winners()
    for lut in luts.values():
        samples = runtimes.measure_networks(
            lut, space, lambda kernels: {n: runtimes.whole(space, archs[n], kernels) for n in archs}, common.tell
        )
        for name, sample in samples.items():
            predicted = lut.predict_arch(space, archs[name])
            off = f"{' (noisy)' if sample.noisy else ''}, {100 * (predicted / sample.median_ms - 1):+.1f} %"
            told = f"{name}: {digits(predicted, 4)} ms predicted, {digits(sample.median_ms, 4)} ms measured{off}"
            common.tell(f"{told} ({lut.source}, {lut.runtime['name']})")
