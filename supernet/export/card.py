"""What an exported file carries about itself: classes, preparation of images, accuracy, latency, where it comes from.

It lies inside of formats that have a place for it, and always beside the file, as ``FILE.json``. No torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supernet import files, metrics, shape
from supernet.data.preparation import PREPARATION, SIDES, Preparation
from supernet.metrics import METRICS, NAMES, TOP1, Metric
from supernet.size import Size

SCHEMA = 2  # 1 had neither classes nor the preparation of images
KEY = "supernet"  # of formats that hold texts by name
LOGITS, PROBABILITIES = "logits", "probabilities"


@dataclass(frozen=True)
class Accuracy:
    """Top-1 in [0, 1]; None where it was not measured.

    Args:
        images: that it was tested on, or, if it was not tested, validated on.
        size: their height and width, if the network was given others than it takes: then it resized them itself, which
            a file does not.
        metric: what the network was chosen by. by_metric: its value on these images, with its interval of 95 %, where
            it is another than top-1.
    """

    test: float | None = None
    validation: float | None = None
    images: int | None = None
    size: tuple[int, int] | None = None
    metric: Metric = TOP1
    by_metric: float | None = None
    by_metric_interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any], metric: Metric = TOP1, size: tuple[int, int] | None = None) -> Accuracy:
        """From a result, as ``Answers.result`` gives it, of test or of validation images, or of both."""
        part = "test" if "test_accuracy" in row else "val"
        top1 = (row.get("test_accuracy"), row.get("val_accuracy"), row.get(f"{part}_images"))
        name = metrics.key(part, metric)
        other = (None, None) if metric == TOP1 else (row.get(name), row.get(f"{name}_interval"))
        return cls(*top1, size, metric, *other)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the test accuracy, else of that in validation, 95 %."""
        share = self.validation if self.test is None else self.test
        if share is None or not self.images:
            return None
        return metrics.interval([round(share * self.images)], [self.images])

    @property
    def told(self) -> str:
        """In words, with the interval and the number of images."""
        if self.test is None:
            if self.validation is None:
                return "not tested"
            known = {"val_accuracy": self.validation, "val_images": self.images}
            return f"not tested, {metrics.percent(known, 'val')} in validation{self._other}"
        told = "top-1 " + metrics.percent({"test_accuracy": self.test, "test_images": self.images}, "test")
        told += "" if self.size is None else f" of {Size(*self.size)} pixels, which the network resized itself"
        return told + self._other

    @property
    def _other(self) -> str:
        if self.by_metric is None:
            return ""
        name = metrics.key("test", self.metric)
        row = {name: self.by_metric, f"{name}_interval": self.by_metric_interval}
        return f"; {NAMES[self.metric]}, by which it was chosen, {metrics.percent(row, 'test', self.metric)}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**dataclasses.asdict(self), "interval": self.interval}


@dataclass(frozen=True)
class Card:
    """What a file of a network carries.

    Args:
        space: name and fingerprint. arch: its architecture in it. layers: in words.
        classes: their names, in the order of the outputs.
        preparation: of its images; None where that could not be found out.
        shape: of one input, channels, height, width.
        batch: images in one run; None: any number.
        pixels: whether it takes uint8 pixels and gives probabilities, as the preparation and the softmax are inside.
        layout: of the input, ``NCHW`` or ``NHWC``.
        precision: of its weights and computations: ``float32``, ``int8`` …
        accuracy: of the network that the file was made from, or of the file if that was tested.
        latency_ms: predicted by the table ``lut``, which names its device and runtime; None where there is none.
        made_from: weights, images and version.
    """

    space: Mapping[str, Any]
    arch: Sequence[int]
    layers: str
    classes: Sequence[str]
    preparation: Preparation | None
    shape: tuple[int, int, int]
    batch: int | None = 1
    pixels: bool = False
    layout: str = "NCHW"
    precision: str = "float32"
    accuracy: Accuracy = Accuracy()
    latency_ms: float | None = None
    lut: Mapping[str, Any] | None = None
    made_from: Mapping[str, Any] = field(default_factory=dict)

    @property
    def input(self) -> list[int | None]:
        """The shape of the input; None for the number of images where it may be any."""
        channels, height, width = self.shape
        return [self.batch, *((height, width, channels) if self.layout == "NHWC" else self.shape)]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as files carry them."""
        known = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        made = {
            "accuracy": self.accuracy.to_json(),
            "preparation": self.preparation and self.preparation.to_json(),
            "input": self.input,
            "type": "uint8" if self.pixels else "float32",
            "output": PROBABILITIES if self.pixels else LOGITS,
        }
        return files.plain({"schema": SCHEMA, **known, **made})

    @classmethod
    def from_json(cls, data: Any) -> Card:
        """From plain values; a ValueError where they are none of a card."""
        shape.require(data, EXPECTED)
        known = {one.name: data[one.name] for one in dataclasses.fields(cls)}
        names = [one.name for one in dataclasses.fields(Accuracy)]
        given = {name: data["accuracy"][name] for name in names if name in data["accuracy"]}
        made = {
            "accuracy": Accuracy(**given),
            "preparation": data["preparation"] and Preparation.from_json(data["preparation"]),
            "shape": tuple(data["shape"]),
        }
        return cls(**{**known, **made})


NUMBER = (None, shape.SHARE)
ACCURACY: dict[str, Any] = {"test": NUMBER, "validation": NUMBER, "images": (None, shape.COUNT), "size": (None, SIDES)}
ACCURACY |= {"metric?": METRICS, "by_metric?": NUMBER, "by_metric_interval?": (None, shape.INTERVAL)}
EXPECTED = {
    "schema": SCHEMA,
    "space": shape.FINGERPRINT,
    "arch": [int],
    "layers": str,
    "classes": [str],
    "preparation": (None, PREPARATION),
    "shape": [shape.POSITIVE] * 3,
    "batch": (None, shape.POSITIVE),
    "pixels": bool,
    "layout": ("NCHW", "NHWC"),
    "precision": str,
    "accuracy": ACCURACY,
    "latency_ms": (None, float),
    "lut": (None, dict),
    "made_from": dict,
}


def beside(file: Path) -> Path:
    """Where the card of a file lies."""
    return file.with_name(f"{file.name}.json")
