"""What a classifier answers to labelled images: the numbers of a result, what is taken for what, and its picture."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from supernet import files, metrics
from supernet.errors import UserError
from supernet.metrics import TOP1, Interval, Metric
from supernet.shape import COUNT, SHARE

SHOWN = 30  # classes that a picture names; the cells of up to half as many have their numbers
FILE = {"schema": 1, "classes": [{"name": str, "images": COUNT, "recall": SHARE, "precision": SHARE}]}
FILE["confusion"] = [[COUNT]]


@dataclass(frozen=True)
class Answers:
    """Labels and answers.

    Args:
        labels: int64 [N], of the classes from 0 on.
        guesses: int64 [N, k]; the first is the answer, all together the likeliest five.
        classes: how many there are.
    """

    labels: np.ndarray
    guesses: np.ndarray
    classes: int

    @classmethod
    def of(cls, logits: np.ndarray, labels: np.ndarray) -> Answers:
        """From logits, or probabilities, [N, classes]; of equal ones the first class counts."""
        return cls(labels, np.argsort(-logits, axis=1, kind="stable")[:, :5], logits.shape[1])

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> np.ndarray:
        """Of each class: int64 [classes]."""
        return np.bincount(self.labels, minlength=self.classes)

    def hits(self, metric: Metric = TOP1) -> np.ndarray:
        """Of each class, the images that are right, as ``metrics.share`` takes them: int64 [classes]."""
        right = self.guesses == self.labels[:, None]
        return np.bincount(self.labels[right.any(1) if metric == "top5" else right[:, 0]], minlength=self.classes)

    def share(self, metric: Metric = TOP1) -> float:
        """The metric in [0, 1]."""
        return metrics.share(self.hits(metric), self.images, metric)

    def interval(self, metric: Metric = TOP1) -> Interval:
        """Its interval of 95 %."""
        return metrics.interval(self.hits(metric), self.images, metric)

    def shares(self, part: str) -> dict[str, float]:
        """Every metric that tells something about so many classes, by the names that results have for it."""
        return {metrics.key(part, metric): self.share(metric) for metric in metrics.told_by(self.classes)}

    def result(self, part: str) -> dict[str, Any]:
        """The same, each with its interval, and the number of images: what a file says of a ``part`` of the data."""
        known = metrics.told_by(self.classes)
        ends = {f"{metrics.key(part, metric)}_interval": list(self.interval(metric)) for metric in known}
        return {**self.shares(part), **ends, f"{part}_images": len(self)}

    def confusion(self) -> np.ndarray:
        """How many images of each class (rows) were taken for each (columns): int64 [classes, classes]."""
        from sklearn.metrics import confusion_matrix

        return confusion_matrix(self.labels, self.guesses[:, 0], labels=range(self.classes))

    def write(self, path: Path, picture: Path, names: Sequence[str]) -> None:
        """The file of the classes, in the shape of ``FILE``, and the picture of the confusion.

        Args:
            names: of the classes.
        """
        from sklearn.metrics import precision_recall_fscore_support

        precision, recall, _, images = precision_recall_fscore_support(
            self.labels, self.guesses[:, 0], labels=range(self.classes), zero_division=0
        )
        rows = zip(names, images.tolist(), recall.tolist(), precision.tolist(), strict=True)
        classes = [dict(zip(("name", "images", "recall", "precision"), row, strict=True)) for row in rows]
        confusion = self.confusion()
        files.write_json(path, {"schema": 1, "classes": classes, "confusion": confusion.tolist()})
        files.write_atomically(picture, lambda file: draw(file, confusion, names))


def read(path: Path) -> tuple[list[dict[str, Any]], np.ndarray]:
    """The classes and the confusion that ``Answers.write`` wrote.

    Raises:
        UserError: the file is missing or damaged.
    """
    found = files.read_json(path, "file of classes", expected=FILE, missing="network")
    classes, confusion = found["classes"], found["confusion"]
    if not classes or {len(classes)} != {len(confusion), *map(len, confusion)}:
        raise UserError(f"{path} is not a readable file of classes (confusion of other classes): delete it", "network")
    return classes, np.array(confusion)


def draw(file: BinaryIO, confusion: np.ndarray, names: Sequence[str]) -> None:
    """The confusion as a picture, each row as shares of its class.

    Args:
        confusion: int64 [classes, classes]; rows are labels. names: of the classes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from sklearn.metrics import ConfusionMatrixDisplay

    names = [name.replace("$", r"\$") for name in names]  # which would begin a formula
    few = len(names) <= SHOWN
    side = 2.2 + 0.38 * len(names) if few else 8.0
    figure = Figure(figsize=(side + 1.2, side), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    shown = ConfusionMatrixDisplay(100 * shares, display_labels=names if few else None)
    numbers = len(names) <= SHOWN // 2
    shown.plot(ax=axes, cmap="Blues", include_values=numbers, values_format=".0f", xticks_rotation="vertical")
    if not few:
        axes.set(xticks=[], yticks=[])
    axes.set(xlabel="taken for", ylabel="label", title="test images, % of each class")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # names in scripts that matplotlib has no font for
        figure.savefig(file)
