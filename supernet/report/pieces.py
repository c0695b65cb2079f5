"""Pieces of an HTML page that needs no other file: sections, tables, pictures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
img { max-width: 100%; display: block; margin: .5rem auto; }
table { border-collapse: collapse; margin: .75rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e2e5e9; }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; }
tr.picked td { font-weight: 600; } .scroll { overflow-x: auto; }
pre { background: #f4f5f7; padding: .75rem; overflow-x: auto; border-radius: 4px; font-size: .85rem; }
summary { cursor: pointer; } .note { color: #57606a; font-size: .9rem; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """The whole page; empty parts are left out."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n<body>\n'
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading with what stands below it; empty parts are left out."""
    return "\n".join([f"<h2>{html.escape(title)}</h2>", *(part for part in parts if part)])


def paragraph(text: str) -> str:
    """A remark."""
    return f'<p class="note">{html.escape(text)}</p>'


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], picked: Iterable[str] = ()) -> str:
    """A table; rows whose first cell is in ``picked`` stand out."""
    picked = set(picked)

    def line(cells: Sequence[str], tag: str, row: str = "<tr>") -> str:
        return row + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = (line(cells, "td", '<tr class="picked">' if cells[0] in picked else "<tr>") for cells in rows)
    return f'<div class="scroll"><table>{line(headings, "th")}{"".join(body)}</table></div>'


def image(draw: Callable[[BinaryIO], None], alt: str) -> str:
    """What ``draw`` saves, as SVG inside the page."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"savefig.format": "svg"}):
        draw(buffer)
    code = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{code}">'


def axes_of(width: float, height: float) -> tuple[Figure, Any]:
    """A figure of so many inches with one plot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.2)
    return figure, axes
