"""Tables in the terminal."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from supernet.cli import common

if TYPE_CHECKING:
    from latency.table import LatencyTable
    from supernet.space import Space


def show(
    headings: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None, left: int = 1, wraps: int = -1
) -> None:
    """Print a table whose first ``left`` columns are text and the others numbers; only column ``wraps`` may break."""
    table = Table(title=title)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < left else "right", no_wrap=i != wraps and wraps >= 0)
    for row in rows:
        table.add_row(*row)
    common.say(table)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Of a sample of two or more."""
    return statistics.fmean(values), statistics.stdev(values)


def rounded(ms: float) -> str:
    """Three significant digits, never as a power of ten."""
    return f"{ms:.{max(0, 2 - math.floor(math.log10(ms)))}f}"


def error_in_words(mape: float | None, spearman: float | None) -> str:
    """How well latencies are predicted."""
    if mape is None:
        return "no architecture left to check"
    rank = "" if spearman is None else f", Spearman {spearman:.3f}"
    return f"mean error of the prediction {100 * mape:.1f} %{rank}"


def latencies(table: LatencyTable, space: Space) -> None:
    """What was measured, how well, and what it says about the space."""
    from search import priced

    latency = priced.additive(space, table.price)
    low, high = latency.bounds(space)
    n, samples = len(table.operations), table.operations.values()
    noisy, preempted = sum(s.noisy for s in samples), sum(s.source == "cpu" for s in samples)
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
        f"median {100 * table.quality['median_aa']:.1f} %)"
        + (f", {preempted} timed by the CPU clock: the machine was busy" if preempted else ""),
    )
    if (found := table.calibration) is not None:
        error = error_in_words(found.held_out_mape, found.held_out_spearman)
        unsteady = sum(check.noisy for check in (*found.fitted_on, *found.held_out))
        grid.add_row(
            "check",
            f"{error} on {len(found.held_out)} whole networks held out; {found.describe()}"
            + (f"; {unsteady} of them noisy" if unsteady else ""),
        )
    grid.add_row(
        "latency",
        f"{rounded(low)} to {rounded(high)} ms over {space.name}; median of 1,000 random "
        f"architectures {rounded(priced.median(space, latency))} ms",
    )
    common.say(grid)
    if noisy > n / 5:
        common.warn(
            "the machine was too busy for a good table: close what else runs, or move to a quiet machine, "
            "and build it again"
        )
