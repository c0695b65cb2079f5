"""Found networks in tables, in a terminal and on a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from supernet import metrics
from supernet.metrics import HEADINGS, TOP1, Metric
from supernet.retraining import controls
from supernet.run_files import INT8
from supernet.tables import Table, mean_and_deviation

# Of networks, trained or on a front: heading, key of the result, factor, form. Not every run has all of them.
COLUMNS = (
    *(
        (f"{HEADINGS[metric]}{part} %", metrics.key(part, metric), 100, "{:.2f}")
        for part in ("test", "val")
        for metric in metrics.METRICS
    ),
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
    random, wanted = controls(rows), {metrics.key("test", metric) for metric in (TOP1, metric_of(rows))}
    others = {metrics.key(part, metric) for part in ("test", "val") for metric in metrics.METRICS} - wanted
    shown = [c for c in shared(rows.values()) if c[1] not in others]  # as wide as a terminal
    single = [name for name in rows if name not in random or len(random) == 1]
    cells = [[name, *(form.format(scale * rows[name][key]) for _, key, scale, form in shown)] for name in single]
    if len(random) > 1:
        cells.append([f"{len(random)} random"])
        for _, key, scale, form in shown:
            values = mean_and_deviation([scale * rows[name][key] for name in random])
            cells[-1].append(" ± ".join(map(form.format, values)))
    return Table(["", *(c[0] for c in shown)], cells, title, text=0)


def metric_of(rows: Mapping[str, dict]) -> Metric:
    """What they are compared by."""
    return next(iter(rows.values())).get("metric", TOP1)


def told(rows: Mapping[str, dict]) -> list[str]:
    """The networks that are no controls, in words: how sure their test is, and which of several validation prefers."""
    metric, random = metric_of(rows), controls(rows)
    name, test, val = metrics.NAMES[metric], metrics.key("test", metric), metrics.key("val", metric)
    picked = [one for one in rows if one not in random and test in rows[one]]
    lines = [f"{one}: test {name} {metrics.percent(rows[one], 'test', metric)}, an interval of 95 %" for one in picked]
    if len(picked) > 1 and all(val in rows[one] for one in picked):
        best = max(picked, key=lambda one: rows[one][val])
        lines.append(f"of these {best} has the highest validation {name}, {metrics.percent(rows[best], 'val', metric)}")
    return lines


def gain(rows: Mapping[str, dict]) -> str:
    """What the first network is better by than the controls, in points of the metric; empty without any.

    Those that were fine-tuned by fake quantisation are no controls of one that was not, nor the other way round.
    """
    first, metric, random = next(iter(rows)), metric_of(rows), controls(rows)
    key = metrics.key("test", metric)
    alike = (rows[name] for name in random if name.endswith(INT8) == first.endswith(INT8))
    test = [100 * row[key] for row in alike if key in row]
    if not test or first in random or key not in rows[first]:
        return ""
    accuracy, against = 100 * rows[first][key], "a random architecture of the same window"
    if len(test) > 1:
        against = f"the mean of {len(test)} random architectures of the same window"
        against += f", {accuracy - max(test):+.2f} against the best of them"
    return f"{first}: {accuracy - sum(test) / len(test):+.2f} points of test {metrics.NAMES[metric]} against {against}"
