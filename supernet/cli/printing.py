"""What a command prints: for people, as text and tables; for programs, with --json, its result alone."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from supernet.cli import grids

if TYPE_CHECKING:
    from supernet.tables import Table

_console = Console()


def to_people(args: Any) -> None:
    """With --json people read on stderr, since stdout is for the result."""
    _console.stderr = getattr(args, "json", False)


def answer(args: Any, result: Any) -> None:
    """With --json print the result: a file that holds it, or what such a file would hold."""
    if args.json:
        sys.stdout.write(json.dumps(json.loads(result.read_text()) if isinstance(result, Path) else result) + "\n")
        sys.stdout.flush()


def say(*parts: Any, style: str | None = None, copied: bool = False) -> None:
    """Print text (with rich's markup) or a table.

    On a terminal text breaks between words: what has no spaces, such as a path, stays whole. What is to be ``copied``
    is one line everywhere, as all text is where there is no terminal.
    """
    text = all(isinstance(part, str) for part in parts)
    if text and _console.is_terminal and not copied:
        parts = tuple(_broken(line) for part in parts for line in part.split("\n"))
    _console.print(*parts, sep="\n" if text else " ", style=style, highlight=False, soft_wrap=text)


def _broken(line: str) -> str:
    """In lines that fit the terminal, as far as words do."""
    return textwrap.fill(line, _console.width, break_long_words=False, break_on_hyphens=False)


def show(table: Table) -> None:
    """Print a table: in a frame that fits the terminal, or as plain text where there is none."""
    say(grids.drawn(table, _console)) if _console.is_terminal else tell(grids.plain(table))


def tell(text: object, style: str | None = None) -> None:
    """Print text as it is, in which brackets are no markup."""
    say(escape(str(text)), style=style)


def warn(text: str) -> None:
    """What a person should know before relying on something."""
    tell(text, style="yellow")
