"""A progress bar with the rate and the time left, or plain lines where nobody watches."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar:
    """Progress over ``total`` units of work.

    On a terminal a live bar; into a pipe or with ``quiet`` a plain line every ``every`` seconds, or nothing.

    Args:
        label: what is going on.
        total: units of work. done: those that an earlier run has done.
        unit: what the rate counts, e.g. ``images``.
    """

    def __init__(self, label: str, total: int, *, done: int = 0, unit: str, quiet: bool = False, every: float = 10.0):
        self.label, self.total, self.unit, self.quiet, self.every = label, total, unit, quiet, every
        self.first = self.count = done
        self.rated, self.text = 0.0, ""
        self.started = self.printed = time.monotonic()
        self.live = sys.stderr.isatty() and not quiet
        self.progress = Progress(
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

    def __exit__(self, *_) -> None:
        self.progress.stop()
        if not self.live and not self.quiet and time.monotonic() - self.started > 2:
            self._print()

    def advance(self, n: int = 1, work: float | None = None, text: str | None = None) -> None:
        """``n`` more units are done; ``work`` counts towards the rate (default ``n``); ``text`` stands at the end."""
        self.count += n
        self.rated += n if work is None else work
        self.text = self.text if text is None else text
        if self.live:
            self.progress.update(self.task, advance=n, rate=self._rate(), text=self.text)
        elif not self.quiet and time.monotonic() - self.printed > self.every:
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
