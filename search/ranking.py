"""How well two sets of scores agree in ranking architectures: Kendall's τ and Spearman's ρ with intervals.

Intervals are percentiles of a bootstrap over the architectures: with few of them they are wide, and τ over 16
networks has a standard deviation of about .13. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from supernet.errors import UserError
from supernet.metrics import NAMES, TOP1, Metric
from supernet.tables import Table

Interval = tuple[float, float]
Values = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Ranking:
    """Agreement of predicted and true accuracies of n architectures; None where one of them is constant."""

    n: int
    tau: float | None  # Kendall's τ-b
    tau_interval: Interval | None
    rho: float | None  # Spearman's
    rho_interval: Interval | None
    gap: float  # mean of true - predicted
    level: float  # of the intervals


def kendall(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's τ-b; NaN if an argument is constant."""
    return float(stats.kendalltau(a, b).statistic)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's ρ; NaN if an argument is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(stats.spearmanr(a, b).statistic)


def rank(predicted: Values, true: Values, level: float = 0.95, draws: int = 1000) -> Ranking:
    """Compare predicted with true accuracies of the same architectures.

    Args:
        level: of the intervals.
        draws: of the bootstrap.

    Raises:
        UserError: fewer than three architectures, or different numbers of predicted and true accuracies.
    """
    x, y = _paired(predicted, true)
    tau, rho = kendall(x, y), spearman(x, y)
    samples = _resamples(len(x), draws)
    return Ranking(
        n=len(x),
        tau=_or_none(tau),
        tau_interval=_percentiles([kendall(x[i], y[i]) for i in samples], level),
        rho=_or_none(rho),
        rho_interval=_percentiles([spearman(x[i], y[i]) for i in samples], level),
        gap=float((y - x).mean()),
        level=level,
    )


def paired_difference(
    first: Values,
    second: Values,
    true: Values,
    level: float = 0.95,
    draws: int = 1000,
    statistic: Callable[[np.ndarray, np.ndarray], float] = kendall,
) -> tuple[float | None, Interval | None]:
    """How much better ``second`` ranks the same architectures than ``first``, with an interval.

    Both are judged on the same draws of architectures, so how hard these are to rank cancels out.
    """
    a, y = _paired(first, true)
    b, _ = _paired(second, true)
    difference = statistic(b, y) - statistic(a, y)
    draws_ = [statistic(b[i], y[i]) - statistic(a[i], y[i]) for i in _resamples(len(y), draws)]
    return _or_none(difference), _percentiles(draws_, level)


def residuals(accuracies: Values, cost: Values) -> np.ndarray:
    """The accuracies without a linear fit in log(cost), since larger networks do better anyway."""
    x, y = np.log(np.asarray(cost, float)), np.asarray(accuracies, float)
    slope, start = np.polyfit(x, y, 1) if np.ptp(x) else (0.0, y.mean())
    return y - (start + slope * x)


def plot(
    path: Path,
    predicted: Sequence[float],
    true: Sequence[float],
    ranking: Ranking,
    title: str,
    metric: Metric = TOP1,
) -> None:
    """Scatter of stand-alone over one-shot accuracies, in %; ``metric`` is what these are."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.scatter([100 * v for v in predicted], [100 * v for v in true], s=18, color="tab:blue", linewidths=0)
    axes.set(xlabel=f"one-shot {NAMES[metric]} (%)", ylabel="trained alone (%)")
    axes.set_title(f"{title}\n{describe(ranking)}", fontsize=8)
    axes.grid(alpha=0.2)
    figure.savefig(path)


def describe(ranking: Ranking) -> str:
    """One line: τ and ρ with their intervals, and the gap in points."""
    tau = show(ranking.tau, ranking.tau_interval)
    rho = show(ranking.rho, ranking.rho_interval)
    return f"τ {tau}, ρ {rho} (n = {ranking.n}, {ranking.level:.0%}), gap {100 * ranking.gap:+.1f} points"


def show(value: float | None, interval: Interval | None) -> str:
    """``0.61 [0.42, 0.75]``; a dash where the value is not defined."""
    if value is None or interval is None:
        return "—"
    return f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def _paired(a: Values, b: Values) -> tuple[np.ndarray, np.ndarray]:
    if len(a) != len(b) or len(a) < 3:
        raise UserError(f"a ranking needs three architectures or more, as many of each: got {len(a)} and {len(b)}")
    return np.asarray(a, float), np.asarray(b, float)


def _resamples(n: int, draws: int) -> np.ndarray:
    """Positions [draws, n], drawn with replacement; the same at every call."""
    return np.random.default_rng(0).integers(n, size=(draws, n))


def _percentiles(values: Sequence[float], level: float) -> Interval | None:
    defined = np.asarray(values, float)
    defined = defined[np.isfinite(defined)]  # a resample of one architecture only has no order
    if not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def table(rankings: Mapping[str, Ranking], space: str, metric: Metric = TOP1) -> Table:
    """One row for each way to rank, by its name; ``space`` and a ``metric`` other than top-1 are in the title."""
    first, rows = next(iter(rankings.values())), []
    for name, row in rankings.items():
        gap = f"{100 * row.gap:+.2f}" if name.startswith("one-shot") else ""
        rows.append([name, show(row.tau, row.tau_interval), show(row.rho, row.rho_interval), gap])
    by = "" if metric == TOP1 else f" by {NAMES[metric]}"
    title = f"{space}: {first.n} architectures{by}, intervals of {100 * first.level:.0f} % over architectures"
    return Table(["ranked by", "Kendall τ", "Spearman ρ", "alone − one-shot, points"], rows, title)
