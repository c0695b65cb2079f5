"""The columns in which found networks are shown, in a terminal and on a page."""

from __future__ import annotations

from collections.abc import Iterable

# Of networks, trained or on a front: heading, key of the result, factor, form. Not every run has all of them.
COLUMNS = (
    ("test %", "test_accuracy", 100, "{:.2f}"),
    ("val %", "val_accuracy", 100, "{:.2f}"),
    ("one-shot %", "one_shot_accuracy", 100, "{:.2f}"),
    ("predicted ms", "latency_ms", 1, "{:.4g}"),
    ("measured ms", "measured_latency_ms", 1, "{:.4g}"),
    ("MFLOPs", "flops", 1e-6, "{:.2f}"),
    ("k params", "params", 1e-3, "{:.1f}"),
)


def shared(rows: Iterable[dict]) -> list[tuple]:
    """Those of ``COLUMNS`` that every row has."""
    rows = list(rows)
    return [column for column in COLUMNS if all(column[1] in row for row in rows)]
