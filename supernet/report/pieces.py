"""Pieces of an HTML page that needs no other file: sections, tables, and places that ``report.js`` draws in."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from supernet.report.charts import Matrix

HERE = Path(__file__).parent
# No page may ask for anything from anywhere.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def page(title: str, parts: Iterable[str], data: dict[str, Any]) -> str:
    """The whole page; empty parts are left out.

    Args:
        data: what ``report.js`` draws.
    """
    style, script = ((HERE / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    head = (
        f'<meta charset="utf-8"><title>{html.escape(title)}</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<style>{style}</style>",
    )
    return "\n".join(
        (
            f'<!doctype html>\n<html lang="en"><head>{"".join(head)}</head>\n<body><main>',
            "<noscript><p>The charts need JavaScript; the tables do not.</p></noscript>",
            *(part for part in parts if part),
            f'</main><script type="application/json" id="data">{embedded(data)}</script>',
            f"<script>{script}</script></body></html>\n",
        )
    )


def reloads(file: Path) -> int | None:
    """After how many seconds a page that was written before loads itself again; None: never."""
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    found = re.search(r'"reload":(\d+)}</script>', text)
    return int(found[1]) if found else None


def embedded(data: Any) -> str:
    """JSON that can stand in a script element."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def section(title: str, *parts: str) -> str:
    """A heading with what stands below it; empty without anything to stand there."""
    there = [part for part in parts if part]
    return "\n".join([f"<h2>{html.escape(title)}</h2>", *there]) if there else ""


def paragraph(text: str) -> str:
    """A remark."""
    return f'<p class="note">{html.escape(text)}</p>' if text else ""


def details(summary: str, *parts: str) -> str:
    """What is shown when it is asked for."""
    return f"<details><summary>{html.escape(summary)}</summary>{''.join(parts)}</details>"


def code(text: str) -> str:
    """Lines to copy."""
    return f'<pre tabindex="0">{html.escape(text)}</pre>'


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], picked: Iterable[str] = ()) -> str:
    """A table; rows whose first cell is in ``picked`` stand out."""
    picked = set(picked)

    def line(cells: Sequence[str], tag: str, row: str = "<tr>") -> str:
        return row + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = (line(cells, "td", '<tr class="picked">' if cells[0] in picked else "<tr>") for cells in rows)
    return _scrolled(headings[0] or "table", f"<table><thead>{line(headings, 'th')}</thead>{''.join(body)}</table>")


def matrix(shown: Matrix) -> str:
    """A table of numbers, darker the larger."""
    largest = shown.largest

    def cell(value: float) -> str:
        if not math.isfinite(value):
            return "<td></td>"
        return f'<td style="--v:{max(0, value) / largest:.3f}">{html.escape(shown.told(value))}</td>'

    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in shown.columns)
    lines = (
        f'<tr><th scope="row">{html.escape(name)}</th>{"".join(map(cell, row))}</tr>'
        for name, row in zip(shown.rows, shown.values, strict=True)
    )
    caption = f'<caption class="note">{html.escape(shown.title)}</caption>'
    body = f'<table class="matrix">{caption}<thead><tr><td></td>{head}</tr></thead>{"".join(lines)}</table>'
    return _scrolled(shown.title, body)


def images(pictures: Iterable[tuple[str, str]]) -> str:
    """PNG files in base64, each with what it is."""
    shown = (
        f'<li><img alt="" src="data:image/png;base64,{html.escape(png)}"><br>{html.escape(told)}</li>'
        for png, told in pictures
    )
    return f'<ul class="images">{"".join(shown)}</ul>'


def _scrolled(name: str, content: str) -> str:
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(name)}">{content}</div>'


def place(kind: str, name: str, caption: str = "") -> str:
    """Where ``report.js`` draws the plot or the network of this name."""
    told = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure data-{kind}="{html.escape(name)}">{told}</figure>'
