"""Progress of long work, told to whoever listens: the library itself prints nothing.

What takes long has an argument ``progress``: ``silent``, the default; ``Bar``, which shows it with its rate and the
time left; or anything else of the kind.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Collection, Iterator
from typing import Protocol, TypeVar

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.text import Text

from supernet.quantities import duration

T = TypeVar("T")
SHORTEST, LONGEST = 10, 40  # columns of a bar, and of the first of a text that is cut


class Track(Protocol):
    """One piece of work under way; a context manager."""

    count: int  # units that are done

    def __enter__(self) -> Track: ...

    def __exit__(self, *_: object) -> None: ...

    def advance(self, n: int = 1, work: float | None = None, text: str | None = None) -> None:
        """``n`` more units are done; ``work`` counts towards the rate (default ``n``); ``text`` stands at the end."""
        ...


class Progress(Protocol):
    """Called when a piece of work begins.

    Args:
        label: what is going on.
        total: units of work. done: those that an earlier run has done.
        unit: what the rate counts, e.g. ``images``.
    """

    def __call__(self, label: str, total: int, *, done: int = 0, unit: str) -> Track: ...


class silent:
    """Tells nobody."""

    def __init__(self, label: str, total: int, *, done: int = 0, unit: str):
        self.count = done

    def __enter__(self) -> silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, n: int = 1, work: float | None = None, text: str | None = None) -> None:
        """Count only."""
        self.count += n


class Bar:
    """Progress over ``total`` units of work: how many are done, their rate, and the time left.

    On a terminal a live line, of which the bar and then the text give way where it is narrow; into a pipe a plain line
    every ``every`` seconds.

    Args:
        label: what is going on.
        total: units of work. done: those that an earlier run has done.
        unit: what the rate counts, in the plural, e.g. ``images``.
    """

    def __init__(self, label: str, total: int, *, done: int = 0, unit: str, every: float = 10.0):
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self.first = self.count = done
        self.rated, self.text = 0.0, ""
        self.started = self.advanced = self.printed = time.monotonic()
        self.live = Live(self, console=Console(stderr=True)) if sys.stderr.isatty() else None

    def __enter__(self) -> Bar:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()
        elif not any(error) and time.monotonic() - self.started > 2:  # what stops the work has the last word
            self._print()

    def advance(self, n: int = 1, work: float | None = None, text: str | None = None) -> None:
        """``n`` more units are done; ``work`` counts towards the rate (default ``n``); ``text`` stands at the end."""
        self.count += n
        self.rated += n if work is None else work
        self.text = self.text if text is None else text
        self.advanced = time.monotonic()
        if not self.live and self.count < self.total and self.advanced - self.printed > self.every:
            self._print()  # of the last unit the end tells

    def facts(self) -> str:
        """``12/100, 340 images/s, 1.2 min left``; how long it took at the end; rate and time once they are known.

        Once the time left is over and the work is not, it is that at the pace up to now.
        """
        now, taken, done = time.monotonic(), self.advanced - self.started, self.count - self.first
        told = [f"{self.count}/{self.total}"]
        if self.rated and taken:
            told.append(_rate(self.rated / taken, self.unit))
        if self.first >= self.total:
            told.append("done before")
        elif self.count >= self.total:
            told.append(f"in {duration(taken)}")
        elif done:
            of, waited = (self.total - self.count) / done, now - self.advanced
            left = of * taken - waited if of * taken > waited else of * (taken + waited)
            told += [f"{duration(left)} left"] if left >= 0.05 else []
        return ", ".join(told)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        width, facts, label, note = options.max_width, self.facts(), Text(f"{self.label}:"), Text(self.text)
        label.truncate(max(width - cell_len(facts) - 1, 0), overflow="ellipsis")
        room = width - label.cell_len - cell_len(facts) - 1
        if room - 2 >= min(note.cell_len, SHORTEST):
            note.truncate(room - 2, overflow="ellipsis")
        else:
            note = Text()
        bar = min(room - (note.cell_len + 2 if note else 0) - 1, LONGEST)
        full = round(bar * min(self.count / max(self.total, 1), 1))
        parts = (
            [label, Text.assemble(("━" * full, "green"), ("─" * (bar - full), "dim"))] if bar >= SHORTEST else [label]
        )
        line = Text(" ", no_wrap=True).join([*parts, Text(facts)])
        yield Text("  ").join([line, note]) if note else line

    def _print(self) -> None:
        self.printed = time.monotonic()
        note = f"  {self.text}" if self.text else ""
        print(f"{self.label}: {self.facts()}{note}", file=sys.stderr, flush=True)


def _rate(per_second: float, unit: str) -> str:
    """Units in a second, or the time of one that takes longer."""
    if per_second < 1:
        return f"{duration(1 / per_second)} per {re.sub('(?<=ch)es$|s$', '', unit)}"
    return f"{per_second:,.0f} {unit}/s" if per_second >= 10 else f"{per_second:.1f} {unit}/s"


def counted(progress: Progress, label: str, items: Collection[T], unit: str) -> Iterator[T]:
    """The items, one after the other, each told when the next one is asked for."""
    with progress(label, len(items), unit=unit) as track:
        for item in items:
            yield item
            track.advance()


def within(progress: Progress, stage: str) -> Progress:
    """Progress whose labels begin with the stage that the work belongs to: ``stage 2, CES``."""

    def begin(label: str, total: int, *, done: int = 0, unit: str) -> Track:
        return progress(f"{stage}, {label}", total, done=done, unit=unit)

    return begin


def shown(wanted: bool) -> Progress:
    """``Bar``, or ``silent`` where it is not wanted."""
    return Bar if wanted else silent
