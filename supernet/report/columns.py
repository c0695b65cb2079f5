"""Found networks in tables, in a terminal and on a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from supernet.retraining import controls
from supernet.tables import Table, mean_and_deviation

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


def alone(rows: Mapping[str, dict], title: str) -> Table:
    """Networks that were trained alone, by name: each picked one, mean ± standard deviation of two or more controls."""
    shown = [c for c in shared(rows.values()) if c[1] != "val_accuracy"]  # as wide as a terminal
    random = controls(rows)
    single = [name for name in rows if name not in random or len(random) == 1]
    cells = [[name, *(form.format(scale * rows[name][key]) for _, key, scale, form in shown)] for name in single]
    if len(random) > 1:
        cells.append([f"{len(random)} random"])
        for _, key, scale, form in shown:
            values = mean_and_deviation([scale * rows[name][key] for name in random])
            cells[-1].append(" ± ".join(map(form.format, values)))
    return Table(["", *(c[0] for c in shown)], cells, title, text=0)


def gain(rows: Mapping[str, dict]) -> str:
    """What the first network is better by than the controls, in points of test accuracy; empty without any."""
    if not (random := controls(rows)):
        return ""
    first, test = next(iter(rows)), [100 * rows[name]["test_accuracy"] for name in random]
    accuracy, against = 100 * rows[first]["test_accuracy"], "a random architecture of the same window"
    if len(random) > 1:
        against = f"the mean of {len(random)} random architectures of the same window"
        against += f", {accuracy - max(test):+.2f} against the best of them"
    return f"{first}: {accuracy - sum(test) / len(test):+.2f} points of test accuracy against {against}"
