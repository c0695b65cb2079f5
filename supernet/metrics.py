"""By what classifiers are judged, each a share of images with the interval that it lies in. No torch.

A balanced accuracy is the mean of the accuracies on each class, so that a class of few images counts as one of many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from supernet.errors import UserError
from supernet.quantities import several

if TYPE_CHECKING:
    import numpy as np

Metric = Literal["top1", "top5", "balanced"]
METRICS: tuple[Metric, ...] = get_args(Metric)
TOP1: Metric = "top1"
NAMES: dict[Metric, str] = {"top1": "accuracy", "top5": "top-5 accuracy", "balanced": "balanced accuracy"}
HEADINGS: dict[Metric, str] = {"top1": "", "top5": "top-5 ", "balanced": "balanced "}  # before "test %"
Interval = tuple[float, float]
Counts: TypeAlias = "Sequence[int] | np.ndarray"  # of each class


def key(part: str, metric: Metric) -> str:
    """What results call it: ``test_accuracy``, ``val_balanced_accuracy``; of a part of the data, or ``one_shot``.

    >>> key("test", "top5")
    'test_top5_accuracy'
    """
    return f"{part}_accuracy" if metric == TOP1 else f"{part}_{metric}_accuracy"


def told_by(classes: int) -> tuple[Metric, ...]:
    """The metrics that tell something about so many classes: a label is always among the first five of five."""
    return tuple(metric for metric in METRICS if metric != "top5" or classes > 5)


def require(metric: Metric, classes: int) -> None:
    """A UserError where the metric is unknown, or tells nothing about so many classes."""
    if metric not in METRICS:
        raise UserError(f"unknown metric {metric!r}: expected {', '.join(METRICS)}")
    if metric not in told_by(classes):
        raise UserError(
            f"top5 of {several(classes, 'class', 'classes')} is right for every image: expected top1 or balanced"
        )


def share(hits: Counts, images: Counts, metric: Metric = TOP1) -> float:
    """The metric in [0, 1].

    Args:
        hits: of each class, how many images are right: the label is the first answer, of ``top5`` among the first five.
        images: of each class; one of none has no part.

    Raises:
        UserError: there are no images.
    """
    _require_images(images)
    if metric != "balanced":
        return int(sum(hits)) / int(sum(images))
    recalls = [int(right) / int(n) for right, n in zip(hits, images, strict=True) if n]
    return math.fsum(recalls) / len(recalls)


def interval(hits: Counts, images: Counts, metric: Metric = TOP1, level: float = 0.95) -> Interval:
    """Ends of the interval of ``share``, which has the same arguments: Wilson's (1927).

    Of a balanced accuracy it is put together of the classes' by the squares of their distances (Zou & Donner 2008), so
    that it holds where a class has few images or all of them are right.
    """
    _require_images(images)
    if metric != "balanced":
        return _wilson(int(sum(hits)), int(sum(images)), level)
    known = [(int(right), int(n)) for right, n in zip(hits, images, strict=True) if n]
    middle, ends = share(hits, images, metric), [_wilson(right, n, level) for right, n in known]
    below = math.hypot(*(right / n - low for (right, n), (low, _) in zip(known, ends, strict=True))) / len(known)
    above = math.hypot(*(high - right / n for (right, n), (_, high) in zip(known, ends, strict=True))) / len(known)
    return max(0.0, middle - below), min(1.0, middle + above)


def _wilson(hits: int, images: int, level: float) -> Interval:
    from scipy.stats import binomtest

    ends = binomtest(hits, images).proportion_ci(level, method="wilson")
    return float(ends.low), float(ends.high)


def _require_images(images: Counts) -> None:
    if not sum(images):
        raise UserError("nothing to evaluate on: the split is empty")


def percent(row: Mapping[str, Any], part: str, metric: Metric = TOP1) -> str:
    """A result in words, as much of it as a row has: ``91.18 % [90.61, 91.72] of 10,000 images``."""
    name, images, ends = key(part, metric), row.get(f"{part}_images"), interval_of(row, part, metric)
    told = f" [{100 * ends[0]:.2f}, {100 * ends[1]:.2f}]" if ends else ""
    return f"{100 * row[name]:.2f} %{told}" + (f" of {several(images, 'image')}" if images else "")


def interval_of(row: Mapping[str, Any], part: str, metric: Metric = TOP1) -> Interval | None:
    """That of a result, if it has one: that of a share of images follows from their number."""
    name, images = key(part, metric), row.get(f"{part}_images")
    known: Interval | None = row.get(f"{name}_interval")
    if known is None and images and metric != "balanced":
        return interval([round(row[name] * images)], [images])
    return known
