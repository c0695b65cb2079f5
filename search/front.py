"""A front for people: which point to take, a picture, a front of one. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from search.ask_tell import Record
from search.costs import Cost, Window
from supernet.metrics import HEADINGS, NAMES, TOP1, Metric
from supernet.quantities import digits, several
from supernet.space import Arch, Space
from supernet.tables import Table, mean_and_deviation

if TYPE_CHECKING:
    from supernet.runs import RunFolder

LABELS = {
    "latency": "predicted latency (ms)",
    "flops": "multiply-adds",
    "params": "parameters",
    "activations": "values alive at the peak",
    "flash": "bytes of flash",
    "ram": "bytes of working memory",
}


def knee(front: Sequence[Record], cost: str) -> int:
    """Index of the point that is farthest above the line from the cheapest to the most accurate point.

    Both axes are scaled to the front's extent. If no point is above that line, the knee is the most accurate point.
    """
    points = np.array([[record.costs[cost], record.accuracy] for record in front])
    extent = np.ptp(points, axis=0)
    if not extent.all():
        return best(front)
    x, y = ((points - points.min(axis=0)) / extent).T
    return int(np.argmax(y - x)) if (y - x).max() > 1e-9 else best(front)


def best(front: Sequence[Record]) -> int:
    """Index of the most accurate point; the front is sorted by cost, so ties go to the cheaper one."""
    return int(np.argmax([record.accuracy for record in front]))


def write_single(
    run: RunFolder,
    space: Space,
    arch: Arch,
    costs: Mapping[str, Cost],
    bounds: Mapping[str, tuple[float, float]],
    seed: int,
    controls: int = 8,
) -> None:
    """``front.json`` of a method that ends with one network, beside random architectures of the same bounds."""
    window = Window(space, costs, bounds)
    random = window.sample(np.random.default_rng([seed, 1]), controls, [arch], 2000)
    entries = [{"arch": list(z), **{name: float(cost(z)) for name, cost in costs.items()}} for z in (arch, *random)]
    run.write_front(space, entries[:1], entries[1:], bounds)


def plot(
    file: Path | BinaryIO,
    scored: Sequence[Record],
    front: Sequence[Record],
    random: Sequence[Record],
    bound: tuple[float, float],
    title: str,
    objectives: Sequence[str] = ("latency",),
    metric: Metric = TOP1,
) -> None:
    """Draw accuracy over the first objective: all that was scored, random architectures within the bounds, the front.

    Args:
        random: architectures of the same window, drawn uniformly.
        bound: (lowest, highest) of the first objective.
        metric: what an accuracy is.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    cost, *others = objectives

    def xy(records: Sequence[Record]) -> tuple[list[float], list[float]]:
        return [r.costs[cost] for r in records], [100 * r.accuracy for r in records]

    axes.scatter(*xy(scored), s=10, color="0.75", label=f"scored by the search ({len(scored)})", linewidths=0)
    label = f"random, same window ({len(random)})"
    axes.scatter(*xy(random), s=22, color="tab:orange", marker="x", label=label, linewidths=1.2)
    line = "" if others else "-"  # with more costs the front is no line in this plane
    label = f"front ({len(front)})"
    axes.plot(*xy(front), color="tab:blue", marker="o", markersize=4, linewidth=1.2, linestyle=line, label=label)
    for index, name in ((best(front), "best"), (knee(front, cost), "knee")):
        point = (front[index].costs[cost], 100 * front[index].accuracy)
        axes.annotate(name, point, (0, 7), textcoords="offset points", ha="center", fontsize=9, color="tab:blue")
    slowest = max(xy([*scored, *random])[0])
    for end in bound:
        if 0 < end <= 1.1 * slowest:  # a bound far away would squeeze the rest
            axes.axvline(end, color="0.4", linestyle=":", linewidth=1)
    axes.set(xlabel=LABELS.get(cost, f"{cost} (ms)"), ylabel=f"one-shot {NAMES[metric]} (%)", title=title)
    axes.margins(y=0.08)
    axes.grid(alpha=0.2)
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(file)


def table(front: Sequence[Record], best: int, knee: int, latencies: Sequence[str], metric: Metric = TOP1) -> Table:
    """About ten points of a front.

    Args:
        best, knee: positions in the front. latencies: the names of the costs in ms. metric: what an accuracy is.
    """
    columns = [(name, "ms", 1.0) for name in latencies]
    columns += [("flops", "M", 1e-6), ("params", "k", 1e-3), ("activations", "k", 1e-3)]
    columns += [(name, "KiB", 1 / 1024) for name in ("flash", "ram") if name in front[0].costs]
    rows, last = [], len(front) - 1
    for i in sorted({0, best, knee, last, *(i * last // 7 for i in range(8))}):
        name = " ".join([str(i)] + ["best"] * (i == best) + ["knee"] * (i == knee))
        values = [digits(front[i].costs[name] * scale, 4) for name, _, scale in columns]
        rows.append([name, *values, f"{100 * front[i].accuracy:.2f}"])
    headings = ["", *(f"{name} {unit}" for name, unit, _ in columns), f"one-shot {HEADINGS[metric]}%"]
    return Table(headings, rows, f"front: {several(len(front), 'architecture')}")


def against(best: Record, random: Sequence[Record]) -> str:
    """The most accurate architecture beside two or more random ones of the same window, in words."""
    chance = [100 * record.accuracy for record in random]
    mean, deviation = mean_and_deviation(chance)
    return (
        f"best {100 * best.accuracy:.2f} % one-shot, against {mean:.2f} ± {deviation:.2f} % of "
        f"{len(random)} random architectures of the same window (their best: {max(chance):.2f} %)"
    )
