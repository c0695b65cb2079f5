"""What an experiment found, for people: tables, a picture, and how far the seeds are apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from supernet import files
from supernet.cli import printing
from supernet.tables import Table

# What a reader sees of the results: title, row, column, text.
Rows = Mapping[str, Mapping[str, str]]
Tables = Mapping[str, Rows]


def report(output: Path, result: dict, tables: Tables, draw: Callable[[Figure, dict], None], size=(10.0, 4.0)) -> None:
    """``output`` (JSON), its tables beside it as Markdown and its picture as PNG; prints the tables.

    What is drawn is what the file holds, in which tuples are lists and keys are text: the same as with --redraw.
    """
    text = markdown(result, tables)
    files.write_json(output, result)
    files.write_bytes(output.with_suffix(".md"), text.encode())
    picture(output.with_suffix(".png"), files.read_json(output, "results", "delete it"), draw, size)
    for title, rows in tables.items():
        printing.show(table(title, rows))
    printing.tell(f"→ {output}, {output.with_suffix('.md').name}, {output.with_suffix('.png').name}")


def table(title: str, rows: Rows) -> Table:
    """Rows that have names, with every column that any of them has."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [[name, *(row.get(column, "") for column in columns)] for name, row in rows.items()]
    return Table(["", *columns], cells, title)


def picture(path: Path, result: dict, draw: Callable[[Figure, dict], None], size=(10.0, 4.0)) -> None:
    """What ``draw`` makes of the results."""
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure, result)
    figure.savefig(path)


def markdown(result: dict, tables: Tables) -> str:
    """The command, the machine, the settings, and the tables."""
    machine = result["machine"]
    lists = {k: " ".join(map(str, v)) for k, v in result["settings"].items() if isinstance(v, list | tuple)}
    settings = ", ".join(f"{name} {value}" for name, value in {**result["settings"], **lists}.items())
    spent = f"{machine['cpu_minutes']:.3g} CPU minutes on {machine['cpu']}, torch {machine['torch']}"
    lines = [
        f"`{result['command']}`: {spent}.",
        "",
        f"Settings: {settings}.",
    ]
    for title, rows in tables.items():
        shown = table(title, rows)
        columns = shown.headings[1:]
        lines += ["", f"**{title}**", "", f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in shown.rows]
    return "\n".join([*lines, ""])


def mean_sd(values: Sequence[float], scale: float = 1.0) -> str:
    """``74.91 ± 0.11``."""
    values = scale * np.asarray(values, float)
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}" if len(values) > 1 else f"{values.mean():.2f}"


def paired(values: Sequence[float], others: Sequence[float]) -> str:
    """The mean difference of pairs with its 95 % interval by Student's t: ``+0.42 ± 0.31``."""
    of = np.asarray(values, float) - np.asarray(others, float)
    half = f" ± {stats.t.ppf(0.975, len(of) - 1) * stats.sem(of):.2f}" if len(of) > 1 else ""
    return f"{of.mean():+.2f}{half}"
