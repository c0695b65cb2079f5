"""What the searches of a supernet share: their options, costs, window, and what they print."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from supernet.cli import common, tables
from supernet.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from latency.measure import Samples
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
    workers: int = os.cpu_count() or 1
    """Threads that score architectures in parallel, on the CPU."""


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


def open_tables(args: SearchArgs, default: Path, space: Space) -> dict[str, LatencyTable]:
    """The latency tables by the name of their cost: latency, latency-2, …; none where nothing needs one."""
    from latency.table import LatencyTable

    needed = "latency" in wanted(args) or args.lat_max or args.lat_min
    paths = args.lut or ((default,) if needed or default.exists() else ())
    names = ["latency", *(f"latency-{i}" for i in range(2, len(paths) + 1))]
    return {name: LatencyTable.load(path, space) for name, path in zip(names, paths, strict=False)}


@dataclass(frozen=True)
class Problem:
    """What is searched for: costs by name, their window, and those that are minimised."""

    luts: Mapping[str, LatencyTable]
    costs: Mapping[str, TableCost]
    bounds: Bounds
    objectives: Sequence[str]


def problem(args: SearchArgs, default: Path, space: Space) -> Problem:
    """What the options ask for; a UserError where a table lacks a layer, or a bound cannot be met.

    Args:
        default: the latency table where none is given.
    """
    from search import priced

    luts = open_tables(args, default, space)
    costs = priced.costs(space, {name: lut.price for name, lut in luts.items()})
    objectives = [cost for name in wanted(args) for cost in (luts if name == "latency" else [name])]
    return Problem(luts, costs, bounds(args, space, luts, costs), objectives)


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


def default_bound(low: float, high: float) -> float:
    """The latency bound where none is given: 40 % of the way from the fastest to the slowest architecture."""
    return low + 0.4 * (high - low)


def _latency_bound(space: Space, latency: TableCost, low: float, bound: float | None, lut: LatencyTable) -> float:
    """The upper bound in ms: as given, or 40 % of the range; says where it does not bind."""
    fastest, slowest = latency.bounds(space)
    attains = f"{space.name} attains {fastest:.4g} to {slowest:.4g} ms"
    if bound is None:
        bound = default_bound(fastest, slowest)
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
        common.warn(f"the prediction is uncertain here: {doubt}")
    return bound


def scoring(args: SearchArgs) -> Scoring:
    """How architectures are scored."""
    from search.run import Scoring

    return Scoring(args.bn, args.recalibration, args.val_limit, args.seed, args.workers)


def write(found: SearchRun, random: Sequence[Record], luts: Mapping[str, LatencyTable]) -> None:
    """Write the front with its picture, and tell what a person should know about the search."""
    devices = [
        {"cost": name, "table": lut.identity, "device": lut.device, "runtime": lut.runtime}
        for name, lut in luts.items()
    ]
    front, best, knee = found.write(random, devices)
    for note in found.search.notes:
        common.tell(note, style="dim")
    common.tell(f"scored {found.evaluator.summary}")
    _show_front(front, best, knee, luts)
    if len(random) > 1:
        chance = [100 * record.accuracy for record in random]
        mean, deviation = tables.mean_and_deviation(chance)
        common.say(
            f"best {100 * front[best].accuracy:.2f} % one-shot, against {mean:.2f} ± {deviation:.2f} % of "
            f"{len(random)} random architectures of the same window (their best: {max(chance):.2f} %)"
        )
    common.tell(f"→ {found.folder.front_path}, {found.folder.front_picture}")


def _show_front(front: Sequence[Record], best: int, knee: int, luts: Mapping[str, LatencyTable]) -> None:
    """About ten points of the front."""
    columns = [(name, "ms", 1.0) for name in luts]
    columns += [("flops", "M", 1e-6), ("params", "k", 1e-3), ("activations", "k", 1e-3)]
    rows, last = [], len(front) - 1
    for i in sorted({0, best, knee, last, *(i * last // 7 for i in range(8))}):
        name = " ".join([str(i)] + ["best"] * (i == best) + ["knee"] * (i == knee))
        values = [f"{front[i].costs[name] * scale:.4g}" for name, _, scale in columns]
        rows.append([name, *values, f"{100 * front[i].accuracy:.2f}"])
    headings = ["", *(f"{name} {unit}" for name, unit, _ in columns), "one-shot %"]
    tables.show(headings, rows, f"front: {len(front)} architectures")


def measured(
    lut: LatencyTable | None, space: Space, networks: Callable[[str], Mapping[str, nn.Module]]
) -> dict[str, Samples]:
    """Whole networks timed as the table was; none, and a line on why, where that cannot be.

    Args:
        networks: by name, built with the kernels that it is called with.
    """
    from latency import runtimes

    if lut is None:
        return {}
    shape = (space.channels, space.resolution, space.resolution)
    try:
        return runtimes.measure_like(lut, lambda kernels: [(n, m, shape) for n, m in networks(kernels).items()])
    except UserError as error:
        common.tell(f"latency is not measured: {error}")
        return {}


def show_winners(found: SearchRun, luts: Mapping[str, LatencyTable]) -> None:
    """Predicted latency of the best and of the knee beside that of the whole networks, where a table is of here."""
    from latency import runtimes
    from search import front as fronts
    from supernet import families

    front, space = found.front(), found.search.space
    picks = {"best": fronts.best(front), "knee": fronts.knee(front, found.search.objectives[0])}
    archs = {name: front[i].arch for name, i in picks.items() if name == "best" or i != picks["best"]}
    for lut in luts.values():
        samples = measured(lut, space, lambda kernels: {n: runtimes.whole(space, archs[n], kernels) for n in archs})
        for name, sample in samples.items():
            predicted = lut.predict(spec.key for spec in families.lower(space, archs[name]))
            common.say(
                f"{name}: {predicted:.4g} ms predicted, {sample.median_ms:.4g} ms measured"
                f"{' (noisy)' if sample.noisy else ''}, {100 * (predicted / sample.median_ms - 1):+.1f} % "
                f"({common.escape(str(lut.source))}, {lut.runtime['name']})"
            )
