"""What the searches of a supernet share: their options, costs, window, and what they print."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from supernet import machine
from supernet.cli import common
from supernet.errors import UserError

if TYPE_CHECKING:
    from latency.table import LatencyTable
    from search.ask_tell import Record
    from search.costs import TableCost
    from search.run import Scoring, SearchRun
    from supernet.space import Space

Bounds = dict[str, tuple[float, float]]
Objective = Literal["latency", "flops", "params", "activations"]


@dataclass(frozen=True)
class SearchArgs(common.Computing):
    """Options of a search."""

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
    objectives: tuple[Objective, ...] | None = None
    """Costs to minimise while accuracy is maximised; latency stands for every --lut. Defaults to latency, or to the
    costs that are bounded if latency is not."""
    population: int = 32
    """Architectures per iteration (CES: 64, SPOS: 50)."""
    iterations: int = 12
    """Iterations, including the random first one (CES: 40, SPOS: 20)."""
    random: int = 32
    """Random architectures of the same window to compare with."""
    bn: Literal["recalibrated", "batch", "inherited"] = "recalibrated"
    """BN statistics for scoring: recalibrated on training images, of each validation batch, or the supernet's own."""
    recalibration: tuple[int, int] = (8, 128)
    """Batches and images per batch for recalibrating BN."""
    val_limit: int | None = None
    """Score on a stratified subset of this many validation images."""
    seed: int = 0
    """Random seed of the search."""
    workers: int = machine.cores()
    """Threads that score architectures in parallel, on the CPU, and processes that decode images of files. Defaults to
    the cores that may be used."""
    memory: str | None = None
    """Memory for the images and activations of all threads, such as 4G; defaults to half of what is free."""


def wanted(args: SearchArgs) -> tuple[Objective, ...]:
    """What is to be minimised: the objectives as given, or those that follow from the bounds."""
    if args.objectives is not None:
        return args.objectives
    counts: dict[Objective, float] = {
        "flops": args.flops_max,
        "params": args.params_max,
        "activations": args.activations_max,
    }
    bounded = tuple(name for name, bound in counts.items() if math.isfinite(bound))
    latency = args.lat_max or args.lat_min or args.lut or not bounded
    return ("latency",) if latency else bounded


def tables(args: SearchArgs, default: Path, space: Space) -> dict[str, LatencyTable]:
    """The latency tables by the name of their cost: latency, latency-2, …; none where nothing needs one."""
    from latency.table import LatencyTable

    needed = "latency" in wanted(args) or args.lat_max or args.lat_min
    paths = args.lut or ((default,) if needed or default.exists() else ())
    names = ["latency", *(f"latency-{i}" for i in range(2, len(paths) + 1))]
    return {name: LatencyTable.load(path, space) for name, path in zip(names, paths, strict=False)}


def objectives(args: SearchArgs, luts: Mapping[str, LatencyTable]) -> list[str]:
    """The names of the costs to be minimised; latency stands for every table."""
    names = wanted(args)
    rest: list[str] = [name for name in names if name != "latency"]
    return [*luts, *rest] if "latency" in names else rest


def costs(space: Space, luts: Mapping[str, LatencyTable]) -> dict[str, TableCost]:
    """Every cost of an architecture of ``space``; a UserError if a table lacks one of its layers."""
    from search.costs import AdditiveCost, MaxCost
    from supernet import families
    from supernet.families.base import peak

    layout = families.layout(space)
    return {
        **{name: AdditiveCost(*layout.priced(lut.price)) for name, lut in luts.items()},
        "flops": AdditiveCost(*layout.priced(lambda spec: spec.flops)),
        "params": AdditiveCost(*layout.priced(lambda spec: spec.params)),
        "activations": MaxCost(*layout.priced(lambda spec: spec.activations if spec.runs else 0, peak)),
    }


def bounds(args: SearchArgs, space: Space, luts: Mapping[str, LatencyTable], costs: Mapping[str, TableCost]) -> Bounds:
    """The window: (lowest, highest) of every cost."""
    for flag, values in (("--lat-max", args.lat_max), ("--lat-min", args.lat_min)):
        if len(values) not in (0, len(luts)):
            raise UserError(
                f"{flag} is given {len(values)} times, for {len(luts)} latency tables; expected one for each"
            )
    window = {}
    for i, (name, lut) in enumerate(luts.items()):
        if "latency" not in wanted(args) and not args.lat_max and not args.lat_min:
            continue  # recorded, neither minimised nor bounded
        low = args.lat_min[i] if args.lat_min else 0.0
        high = _latency_bound(space, costs[name], low, args.lat_max[i] if args.lat_max else None, lut)
        window[name] = (low, high)
    most = {"flops": args.flops_max, "params": args.params_max, "activations": args.activations_max}
    return window | {name: (0.0, bound) for name, bound in most.items()}


def _latency_bound(space: Space, latency: TableCost, low: float, bound: float | None, lut: LatencyTable) -> float:
    """The upper bound in ms: as given, or 40 % of the range; says where it does not bind."""
    fastest, slowest = latency.bounds(space)
    attains = f"{space.name} attains {fastest:.4g} to {slowest:.4g} ms"
    if bound is None:
        bound = common.default_bound(fastest, slowest)
        reason = "--lat-max is not given: 40 % of the way from the fastest to the slowest"
    elif bound < fastest:
        raise UserError(
            f"--lat-max {bound:g} ms is below the fastest architecture of {space.name}, {fastest:.4g} ms (the slowest "
            f"takes {slowest:.4g} ms): raise it, or build a table for a faster device or a smaller space"
        )
    else:
        share = f"{(bound - fastest) / (slowest - fastest):.0%} of the range" if slowest > fastest else "all are alike"
        reason = "does not bind" if bound >= slowest else share
    if low > min(bound, slowest):
        raise UserError(f"no latency lies between --lat-min {low:g} and {bound:g} ms: {attains}")
    device = f"{lut.device.get('cpu', 'this')} ({lut.source})"
    common.say(f"latency ≤ [bold]{bound:.4g} ms[/bold] ({reason}); {common.escape(f'{attains} on {device}')}")
    if doubt := lut.doubt(min(bound, slowest)):
        common.say(f"the prediction is uncertain here: {common.escape(doubt)}", style="yellow")
    return bound


def scoring(args: SearchArgs) -> Scoring:
    """How architectures are scored."""
    from search.run import Scoring

    memory = None if args.memory is None else machine.memory_size(args.memory)
    return Scoring(args.bn, args.recalibration, args.val_limit, args.seed, args.workers, memory)


def write(found: SearchRun, random: Sequence[Record], luts: Mapping[str, LatencyTable]) -> None:
    """Write the front with its picture, and tell what a person should know about the search."""
    from search import front as fronts

    search, folder, first = found.search, found.folder, found.search.objectives[0]
    front = found.front()
    best, knee = fronts.best(front), fronts.knee(front, first)
    devices = [
        {"cost": name, "table": lut.identity, "device": lut.device, "runtime": lut.runtime}
        for name, lut in luts.items()
    ]
    more = {"device": devices[0]["device"], "runtime": devices[0]["runtime"]} if devices else {}
    found.write_front(front, random, best, knee, **more, devices=devices)
    title = f"{search.space.name}: {search.config.algorithm}, {len(search.records())} architectures scored"
    bound = search.window.bounds.get(first, (0.0, math.inf))
    fronts.plot(folder.front_picture, search.records(), front, random, bound, title, search.objectives)
    for note in search.notes:
        common.say(common.escape(note), style="dim")
    common.say(f"scored {common.escape(found.evaluator.summary)}")
    _show_front(front, best, knee, luts)
    if len(random) > 1:
        chance = [100 * record.accuracy for record in random]
        mean = math.fsum(chance) / len(chance)
        deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in chance) / (len(chance) - 1))
        common.say(
            f"best {100 * front[best].accuracy:.2f} % one-shot, against {mean:.2f} ± {deviation:.2f} % of "
            f"{len(random)} random architectures of the same window (their best: {max(chance):.2f} %)"
        )
    common.say(common.escape(f"→ {folder.front_path}, {folder.front_picture}"))


def _show_front(front: Sequence[Record], best: int, knee: int, luts: Mapping[str, LatencyTable]) -> None:
    """About ten points of the front."""
    from rich.table import Table

    columns = [(name, "ms", 1.0) for name in luts]
    columns += [("flops", "M", 1e-6), ("params", "k", 1e-3), ("activations", "k", 1e-3)]
    table = Table(title=f"front: {len(front)} architectures")
    table.add_column("")
    for name in (*(f"{name} {unit}" for name, unit, _ in columns), "one-shot %"):
        table.add_column(name, justify="right")
    last = len(front) - 1
    for i in sorted({0, best, knee, last, *(i * last // 7 for i in range(8))}):
        name = " ".join([str(i)] + ["best"] * (i == best) + ["knee"] * (i == knee))
        values = [f"{front[i].costs[name] * scale:.4g}" for name, _, scale in columns]
        table.add_row(name, *values, f"{100 * front[i].accuracy:.2f}")
    common.say(table)


def show_winners(found: SearchRun, luts: Mapping[str, LatencyTable]) -> None:
    """Predicted latency of the best and of the knee beside that of the whole networks, where a table is of here."""
    from latency import runtimes
    from search import front as fronts
    from supernet import families

    front, space = found.front(), found.search.space
    picks = {"best": fronts.best(front), "knee": fronts.knee(front, found.search.objectives[0])}
    archs = {name: front[i].arch for name, i in picks.items() if name == "best" or i != picks["best"]}
    shape = (space.channels, space.resolution, space.resolution)
    for lut in luts.values():
        try:
            samples = runtimes.measure_like(
                lut, lambda kernels: [(n, runtimes.whole(space, arch, kernels), shape) for n, arch in archs.items()]
            )
        except UserError as error:
            common.say(f"latency is not measured: {common.escape(str(error))}")
            continue
        for name, sample in samples.items():
            predicted = lut.predict(spec.key for spec in families.lower(space, archs[name]))
            common.say(
                f"{name}: {predicted:.4g} ms predicted, {sample.median_ms:.4g} ms measured"
                f"{' (noisy)' if sample.noisy else ''}, {100 * (predicted / sample.median_ms - 1):+.1f} % "
                f"({common.escape(str(lut.source))}, {lut.runtime['name']})"
            )
