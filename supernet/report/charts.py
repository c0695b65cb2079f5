"""Charts of a report: what they show, and a picture of each. The page draws them by ``report.js``."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from supernet import files
from supernet.quantities import digits

if TYPE_CHECKING:
    from matplotlib.axes import Axes


NAMED = 100  # rows or columns of a matrix whose names have room in a picture


@dataclass(frozen=True)
class Series:
    """Points of one kind.

    Args:
        x, y: of each point. labels: what is told of each beside its values; none, or one for each.
        style: ``points``, a ``line`` through them, or ``faint`` points that stay behind.
        error: half of an interval of each y; none, or one for each.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: Literal["points", "line", "faint"] = "points"
    labels: Sequence[str] = ()
    error: Sequence[float] = ()


@dataclass(frozen=True)
class Plot:
    """Values over values.

    Args:
        x, y: what the axes are, with the unit. diagonal: draw where both are equal.
        window: ends of the part of the x axis that is asked for; None: open.
    """

    title: str
    x: str
    y: str
    series: Sequence[Series]
    diagonal: bool = False
    window: tuple[float | None, float | None] = (None, None)

    def to_json(self) -> dict[str, Any]:
        """For the page; points that are not finite are left out."""
        return {**files.plain(dataclasses.asdict(self)), "series": [finite(one) for one in self.series]}


def finite(series: Series) -> dict[str, Any]:
    """The points that can be drawn."""
    there = [i for i, pair in enumerate(zip(series.x, series.y, strict=True)) if all(map(math.isfinite, pair))]
    made: dict[str, Any] = {"name": series.name, "style": series.style}
    for name in ("x", "y", "labels", "error"):
        values = getattr(series, name)
        made[name] = files.plain([values[i] for i in there]) if len(values) else []
    return made


@dataclass(frozen=True)
class Matrix:
    """Numbers by row and column, darker the larger; NaN is left empty.

    Args:
        values: of each row, of each column. form: of a number; None: three digits.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]
    form: str | None = None

    def told(self, value: float) -> str:
        """A number in its cell."""
        if not math.isfinite(value):
            return ""
        return digits(value) if self.form is None else self.form.format(value)

    @property
    def largest(self) -> float:
        """What is darkest; 1 where all is 0."""
        return max((value for row in self.values for value in row if math.isfinite(value)), default=0) or 1


def figures(folder: Path, plots: Mapping[str, Plot | Matrix]) -> list[Path]:
    """Each plot as SVG and PNG, by its name."""
    return [draw(folder / f"{name}.{suffix}", plot) for name, plot in plots.items() for suffix in ("svg", "png")]


def draw(path: Path, plot: Plot | Matrix) -> Path:
    """A picture of a plot; the suffix gives its format."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = (6.0, 3.8) if isinstance(plot, Plot) else _inches(plot)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    if isinstance(plot, Plot):
        _lines(figure.add_subplot(), plot)
    else:
        _cells(figure.add_subplot(), plot)
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:])
    files.write_bytes(path, content.getvalue())
    return path


def _inches(matrix: Matrix) -> tuple[float, float]:
    """Room for each cell and for the names beside; what has very many cells is drawn smaller."""
    cells = 0.5 * len(matrix.columns), 0.3 * len(matrix.rows)
    return min(max(6.0, cells[0] + 1.5), 16.0), min(cells[1] + 1.2, 16.0)


def _cells(axes: Axes, matrix: Matrix) -> None:
    axes.imshow(matrix.values, cmap="Blues", vmin=0, vmax=1.6 * matrix.largest, aspect="auto")  # black is legible on it
    for i, row in enumerate(matrix.values):
        for k, value in enumerate(row):
            if told := matrix.told(value):
                axes.text(k, i, told, ha="center", va="center", fontsize=7)
    if len(matrix.columns) <= NAMED:
        axes.set_xticks(range(len(matrix.columns)), matrix.columns, fontsize=7, rotation=90 if _long(matrix) else 0)
    if len(matrix.rows) <= NAMED:
        axes.set_yticks(range(len(matrix.rows)), matrix.rows, fontsize=7)
    axes.set_title(matrix.title, fontsize=9, wrap=True)


def _long(matrix: Matrix) -> bool:
    """Whether names of columns are wider than their cells."""
    return max(map(len, matrix.columns)) > 6 or len(matrix.columns) > 30


def _lines(axes: Axes, plot: Plot) -> None:
    for one in plot.series:
        style: dict[str, Any] = {"points": {"marker": "o", "linestyle": ""}, "line": {"marker": "."}}.get(
            one.style, {"marker": ".", "linestyle": "", "alpha": 0.35, "color": "0.5", "zorder": 0}
        )
        if len(one.error):
            axes.errorbar(one.x, one.y, one.error, capsize=2, label=one.name, **style)
        else:
            axes.plot(one.x, one.y, label=one.name, **style)
    if plot.diagonal:
        ends = min(*axes.get_xlim(), *axes.get_ylim()), max(*axes.get_xlim(), *axes.get_ylim())
        axes.plot(ends, ends, color="0.4", linestyle=":", linewidth=1)
    low, high = plot.window
    if low is not None or high is not None:
        left, right = axes.get_xlim()
        axes.axvspan(left if low is None else low, right if high is None else high, color="0.5", alpha=0.08)
        axes.set_xlim(left, right)
    axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y)
    axes.grid(alpha=0.2)
    if len(plot.series) > 1:
        axes.legend(fontsize=8)
