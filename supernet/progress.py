"""Progress of long work, told to whoever listens: the library itself prints nothing.

What takes long has an argument ``progress``: ``silent``, the default; ``Bar``, which shows it with its rate and the
time left; or anything else of the kind.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

T = TypeVar("T")


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
    """Progress over ``total`` units of work.

    On a terminal a live bar; into a pipe a plain line every ``every`` seconds.

    Args:
        label: what is going on.
        total: units of work. done: those that an earlier run has done.
        unit: what the rate counts, e.g. ``images``.
    """

    def __init__(self, label: str, total: int, *, done: int = 0, unit: str, every: float = 10.0):
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self.first = self.count = done
        self.rated, self.text = 0.0, ""
        self.started = self.printed = time.monotonic()
        self.live = sys.stderr.isatty()
        self.progress = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
            disable=not self.live,
        )
        self.task = self.progress.add_task(label, total=total, completed=done, rate="", text="")

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        if not self.live and time.monotonic() - self.started > 2:
            self._print()

    def advance(self, n: int = 1, work: float | None = None, text: str | None = None) -> None:
        """``n`` more units are done; ``work`` counts towards the rate (default ``n``); ``text`` stands at the end."""
        self.count += n
        self.rated += n if work is None else work
        self.text = self.text if text is None else text
        if self.live:
            self.progress.update(self.task, advance=n, rate=self._rate(), text=self.text)
        elif time.monotonic() - self.printed > self.every:
            self._print()

    def _rate(self) -> str:
        rate = self.rated / max(time.monotonic() - self.started, 1e-9)
        return f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2g} {self.unit}/s"

    def _print(self) -> None:
        self.printed = time.monotonic()
        left, done = self.total - self.count, self.count - self.first
        speed = (self.printed - self.started) / max(done, 1)
        note = f"  {self.text}" if self.text else ""
        eta = f", {left * speed:.0f} s left" if left else ""
        print(f"{self.label}: {self.count}/{self.total}, {self._rate()}{eta}{note}", file=sys.stderr, flush=True)


def counted(progress: Progress, label: str, items: Collection[T], unit: str) -> Iterator[T]:
    """The items, one after the other, each told when the next one is asked for."""
    with progress(label, len(items), unit=unit) as track:
        for item in items:
            yield item
            track.advance()


def shown(wanted: bool) -> Progress:
    """``Bar``, or ``silent`` where it is not wanted."""
    return Bar if wanted else silent
