"""What evolve.py and pad_nas.py share: the costs of a search, its bounds, and how architectures are scored."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from rich.table import Table
from torch import nn

from latency import runtimes
from latency.table import LatencyTable
from search import front as fronts
from search.ask_tell import Record
from search.costs import AdditiveCost, Cost, MaxCost
from search.evaluator import Mode
from search.run import Scoring, SearchRun, write_front
from supernet import families
from supernet.cli import common
from supernet.errors import UserError
from supernet.families.base import peak
from supernet.space import Space

Bounds = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class SearchArgs:
    lat_max: Annotated[tuple[float, ...], tyro.conf.UseAppendAction] = ()
    """Latency bound in ms, one for each --lut; without any, 40 % of the way from the fastest to the slowest."""
    lat_min: Annotated[tuple[float, ...], tyro.conf.UseAppendAction] = ()
    """Lower end of the latency window in ms, one for each --lut; 0."""
    flops_max: float = math.inf
    """Bound on multiply-adds."""
    params_max: float = math.inf
    """Bound on parameters."""
    activations_max: float = math.inf
    """Bound on the values alive at the peak, for one image."""
    lut: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """Latency table; give several for several devices. RUN/lut.json."""
    objectives: tuple[Literal["latency", "flops", "params", "activations"], ...] = ("latency",)
    """What is minimised while accuracy is maximised; latency stands for every --lut."""
    population: int = 32
    """Architectures per iteration (CES: 64, SPOS: 50)."""
    iterations: int = 12
    """Iterations, the random first one included (CES: 40, SPOS: 20)."""
    random: int = 32
    """Random architectures of the same window to compare with."""
    bn: Mode = "recalibrated"
    """BN statistics of a score: recalibrated on training images, of each validation batch, or the supernet's own."""
    recalibration: tuple[int, int] = (8, 128)
    """Batches and images per batch that BN is recalibrated with."""
    val_limit: int | None = None
    """Score on this many validation images only, stratified."""
    data_root: Path | None = None
    """Where image sets lie; where the supernet's training found them."""
    seed: int = 0
    """Of the search."""
    device: str | None = None
    """cpu, cuda, …; CUDA where there is one."""
    workers: int = os.cpu_count() or 1
    """Threads that score architectures side by side, on the CPU."""
    quiet: bool = False
    """No progress."""


def tables(args: SearchArgs, default: Path, space: Space) -> dict[str, LatencyTable]:
    """The latency tables by the name of their cost: latency, latency-2, …; none where nothing needs one."""
    needed = "latency" in args.objectives or args.lat_max or args.lat_min
    paths = args.lut or ((default,) if needed or default.exists() else ())
    names = ["latency", *(f"latency-{i}" for i in range(2, len(paths) + 1))]
    return {name: LatencyTable.load(path, space) for name, path in zip(names, paths, strict=False)}


def objectives(args: SearchArgs, luts: dict[str, LatencyTable]) -> list[str]:
    """The names of the costs to be minimised; latency stands for every table."""
    rest = [name for name in args.objectives if name != "latency"]
    return [*luts, *rest] if "latency" in args.objectives else rest


def costs(space: Space, luts: dict[str, LatencyTable]) -> dict[str, Cost]:
    """Every cost of an architecture of ``space``; a UserError if a table lacks one of its layers."""
    layout = families.layout(space)
    alive = layout.priced(lambda spec: spec.activations if spec.runs else 0, peak)
    return {
        **{name: AdditiveCost(*layout.priced(lut.price)) for name, lut in luts.items()},
        "flops": AdditiveCost(*layout.priced(lambda spec: spec.flops)),
        "params": AdditiveCost(*layout.priced(lambda spec: spec.params)),
        "activations": MaxCost(*alive),
    }


def bounds(args: SearchArgs, space: Space, luts: dict[str, LatencyTable], costs: dict[str, Cost]) -> Bounds:
    """The window: (lowest, highest) of every cost."""
    for flag, values in (("--lat-max", args.lat_max), ("--lat-min", args.lat_min)):
        if len(values) not in (0, len(luts)):
            raise UserError(
                f"{flag} is given {len(values)} times, for {len(luts)} latency tables; expected one for each"
            )
    window = {}
    for i, (name, lut) in enumerate(luts.items()):
        if "latency" not in args.objectives and not args.lat_max and not args.lat_min:
            continue  # recorded, neither minimised nor bounded
        low = args.lat_min[i] if args.lat_min else 0.0
        high = _latency_bound(space, costs[name], low, args.lat_max[i] if args.lat_max else None, lut)
        window[name] = (low, high)
    most = {"flops": args.flops_max, "params": args.params_max, "activations": args.activations_max}
    return window | {name: (0.0, bound) for name, bound in most.items()}


def _latency_bound(space: Space, latency: AdditiveCost, low: float, bound: float | None, lut: LatencyTable) -> float:
    """The upper bound in ms: as given, or 40 % of the range; says where it does not bind."""
    fastest, slowest = latency.bounds(space)
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
        raise UserError(
            f"no latency lies between --lat-min {low:g} and {bound:g} ms: {space.name} attains {fastest:.4g} to "
            f"{slowest:.4g} ms"
        )
    common.console.print(
        f"latency ≤ [bold]{bound:.4g} ms[/bold] ({reason}); {space.name} attains {fastest:.4g} to {slowest:.4g} ms on "
        f"{lut.device.get('cpu', 'this')} ({lut.source})",
        highlight=False,
    )
    if doubt := lut.doubt(min(bound, slowest)):
        common.console.print(
            f"take the predictions with care: {doubt}", style="yellow", highlight=False, soft_wrap=True
        )
    return bound


def scoring(args: SearchArgs) -> Scoring:
    """How architectures are scored."""
    return Scoring(args.bn, args.recalibration, args.val_limit, args.seed, args.workers)


def show_winners(found: SearchRun, luts: dict[str, LatencyTable]) -> None:
    """Predicted latency of the best and of the knee beside that of the whole networks, where a table is of here."""
    front, space = found.search.front(), found.search.space
    picks = {"best": fronts.best(front), "knee": fronts.knee(front, found.search.objectives[0])}
    archs = {name: front[i].arch for name, i in picks.items() if name == "best" or i != picks["best"]}
    shape = (space.channels, space.resolution, space.resolution)

    def networks(kernels: str) -> list[tuple[str, nn.Module, runtimes.Shape]]:
        return [(name, runtimes.whole(space, arch, kernels), shape) for name, arch in archs.items()]

    for lut in luts.values():
        try:
            samples = runtimes.measure_like(lut, networks)
        except UserError as error:
            common.console.print(f"latency is not measured: {error}", highlight=False, soft_wrap=True)
            continue
        for name, sample in samples.items():
            predicted = lut.predict(spec.key for spec in families.lower(space, archs[name]))
            common.console.print(
                f"{name}: {predicted:.4g} ms predicted, {sample.median_ms:.4g} ms measured"
                f"{' (noisy)' if sample.noisy else ''}, {100 * (predicted / sample.median_ms - 1):+.1f} % "
                f"({lut.source}, {lut.runtime['name']})",
                highlight=False,
                soft_wrap=True,
            )


def write(folder: Path, found: SearchRun, random: Sequence[Record], luts: dict[str, LatencyTable]) -> None:
    """``front.json``, ``front.png``, a table of the front, and what a person should know about the search."""
    search = found.search
    front, first = search.front(), search.objectives[0]
    best, knee = fronts.best(front), fronts.knee(front, first)
    devices = [{"cost": name, "device": lut.device, "runtime": lut.runtime} for name, lut in luts.items()]
    more = {"device": devices[0]["device"], "runtime": devices[0]["runtime"]} if devices else {}
    path, picture = folder / "front.json", folder / "front.png"
    write_front(path, search, random, best, knee, {**more, "devices": devices})
    title = f"{search.space.name}: {search.config.algorithm}, {len(search.records())} architectures scored"
    bound = search.window.bounds[first]
    fronts.plot(picture, search.records(), front, random, bound, title, search.objectives)

    for note in search.notes:
        common.console.print(f"[dim]{note}[/dim]")
    common.console.print(f"scored {found.evaluator.summary}", highlight=False)
    columns = [(name, "ms", 1.0) for name in luts]
    columns += [("flops", "M", 1e-6), ("params", "k", 1e-3), ("activations", "k", 1e-3)]
    table = Table(title=f"front: {len(front)} architectures")
    table.add_column("")
    for name in (*(f"{name} {unit}" for name, unit, _ in columns), "one-shot %"):
        table.add_column(name, justify="right")
    shown = sorted({0, best, knee, len(front) - 1, *np.linspace(0, len(front) - 1, 8).astype(int).tolist()})
    for i in shown:
        name = " ".join([str(i)] + ["best"] * (i == best) + ["knee"] * (i == knee))
        values = [f"{front[i].costs[name] * scale:.4g}" for name, _, scale in columns]
        table.add_row(name, *values, f"{100 * front[i].accuracy:.2f}")
    common.console.print(table)
    chance = np.array([100 * r.accuracy for r in random])
    if len(chance) > 1:
        common.console.print(
            f"best {100 * front[best].accuracy:.2f} % one-shot, against {chance.mean():.2f} ± {chance.std(ddof=1):.2f} "
            f"% of {len(random)} random architectures of the same window (their best: {chance.max():.2f} %)",
            highlight=False,
        )
    common.console.print(f"→ {path}, {picture}", highlight=False)
