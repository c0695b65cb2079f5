"""A table for people: what a result says in rows, to be printed or put on a page. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Headings and rows of text, all ready to be read.

    Args:
        text: how many leading columns are text; the others are numbers, to be aligned at the right.
        wraps: the column that may break into lines where a row is too wide; None: those of text.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str | None = None
    text: int = 1
    wraps: int | None = None


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of a sample of two or more."""
    return statistics.fmean(values), statistics.stdev(values)
