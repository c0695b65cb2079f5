"""A table as a terminal shows it, whatever its width; and as plain text, for a file or another program."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import HEAVY_HEAD
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table as Grid

from supernet.tables import Table

WIDE = 10_000  # columns, more than any table has


def plain(table: Table) -> str:
    """Columns with two spaces between, one line for each row, nothing cut."""
    rows = [[" ".join(cell.split()) for cell in row] for row in table.rows]
    lines = [list(table.headings), *rows] if any(table.headings) else rows
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    told = [table.title] if table.title else []
    for line in lines:
        cells = (
            cell.ljust(width) if i < table.text else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        told.append("  ".join(cells).rstrip())
    return "\n".join(told)


def drawn(table: Table, console: Console) -> RenderableType:
    """In the first form that fits: framed, with headings and text in several lines, without the frame, as lists.

    Numbers are never broken, and no cell is cut.
    """
    for framed, broken in ((True, False), (True, True), (False, True)):
        grid = _grid(table, framed, broken)
        measured = Measurement.get(console, console.options.update(width=WIDE), grid)
        if (measured.minimum if broken else measured.maximum) <= console.width:
            return grid
    return escape("\n".join(_lists(table)))


def _grid(table: Table, framed: bool, broken: bool) -> Grid:
    """The table; with its headings in several lines, and its text too, where it is to be ``broken``."""
    form = {"box": HEAVY_HEAD, "padding": (0, 1)} if framed else {"box": None, "padding": (0, 1, 0, 0)}
    grid = Grid(show_header=any(table.headings), title=table.title and escape(table.title), **form)
    for i in range(len(table.rows[0]) if table.rows else len(table.headings)):
        heading = table.headings[i] if table.headings else ""
        may_break = i < table.text if table.wraps is None else i == table.wraps
        lines = heading.split() if broken and not may_break else [heading]
        widest = max(map(cell_len, (*lines, *(row[i] for row in table.rows))))
        grid.add_column(
            escape("\n".join(lines)),
            justify="left" if i < table.text else "right",
            no_wrap=not may_break,
            overflow="fold",
            min_width=None if may_break else widest,
        )
    for row in table.rows:
        grid.add_row(*map(escape, row))
    return grid


def _lists(table: Table) -> Iterator[str]:
    """The first cell of each row, and below it a line for each of the others."""
    if table.title:
        yield table.title
    for row in table.rows:
        yield row[0]
        for heading, cell in zip(table.headings[1:], row[1:], strict=True):
            if cell:
                yield f"  {heading}: {cell}" if heading else f"  {cell}"
