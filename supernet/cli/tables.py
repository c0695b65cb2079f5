"""Tables for people: what a latency table says, and the columns of found networks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.table import Table

from supernet.cli import common

if TYPE_CHECKING:
    from latency.table import Calibration, LatencyTable
    from search.costs import AdditiveCost
    from supernet.space import Space

# Of networks, trained or on a front: heading, key of the result, factor, form. Not every run has all of them.
COLUMNS = (
    ("test %", "test_accuracy", 100, "{:.2f}"),
    ("val %", "val_accuracy", 100, "{:.2f}"),
    ("one-shot %", "one_shot_accuracy", 100, "{:.2f}"),
    ("predicted ms", "latency_ms", 1, "{:.4g}"),
    ("measured ms", "measured_latency_ms", 1, "{:.4g}"),
    ("MFLOPs", "flops", 1e-6, "{:.2f}"),
    ("k params", "params", 1e-3, "{:.1f}"),
)


def columns(rows: Iterable[dict]) -> list[tuple]:
    """Those of ``COLUMNS`` that every row has."""
    rows = list(rows)
    return [column for column in COLUMNS if all(column[1] in row for row in rows)]


def latency_of(table: LatencyTable, space: Space) -> AdditiveCost:
    """The predicted latency of an architecture."""
    from search.costs import AdditiveCost
    from supernet.families import layout

    return AdditiveCost(*layout(space).priced(table.price))


def extremes(table: LatencyTable, space: Space) -> tuple[float, float]:
    """Predicted latency of the fastest and of the slowest architecture."""
    return latency_of(table, space).bounds(space)


def median_ms(table: LatencyTable, space: Space) -> float:
    """Predicted latency of the median of 1,000 random architectures."""
    import numpy as np

    latency = latency_of(table, space)
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


def calibration_in_words(calibration: Calibration) -> str:
    """Scale and overhead, and from how many networks."""
    overhead = f", {1e3 * calibration.overhead_ms:.3g} µs off each layer" if calibration.overhead_ms else ""
    return f"scale {calibration.scale:.3f}{overhead}, from {len(calibration.fitted_on)}"


def show(table: LatencyTable, space: Space) -> None:
    """What was measured, how well, and what it says about the space."""
    low, high = extremes(table, space)
    quality, calibration = table.quality, table.calibration
    n, noisy = len(table.operations), sum(s.noisy for s in table.operations.values())
    preempted = sum(s.source == "cpu" for s in table.operations.values())
    core = "" if table.device["core"] is None else f", on core {table.device['core']}"
    options = ", ".join(map(str, table.runtime["options"].values())) or table.runtime.get("delegate", "")
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
    if calibration is not None:
        error = in_words(calibration.held_out_mape, calibration.held_out_spearman)
        unsteady = sum(check.noisy for check in (*calibration.fitted_on, *calibration.held_out))
        grid.add_row(
            "check",
            f"{error} on {len(calibration.held_out)} whole networks held out; {calibration_in_words(calibration)}"
            + (f"; {unsteady} of them noisy" if unsteady else ""),
        )
    grid.add_row(
        "latency",
        f"{rounded(low)} to {rounded(high)} ms over {space.name}; median of 1,000 random "
        f"architectures {rounded(median_ms(table, space))} ms",
    )
    common.say(grid)
    if noisy > n / 5:
        common.say(
            "the machine was too busy for a good table: close what else runs, or move to a quiet machine, "
            "and build it again",
            style="yellow",
        )
