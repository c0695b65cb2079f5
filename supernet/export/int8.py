"""A network on 8-bit values, judged in its runtime on real images before its file is written.

Where it loses too much, the layers that hurt most are found and named, or kept as floats.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from supernet import metrics
from supernet.answers import Answers
from supernet.data.images import ImageSet
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.export import formats, int8_executorch, int8_onnx, int8_openvino, int8_tflite
from supernet.export.base import Int8, Quantiser, Run
from supernet.families import layout
from supernet.families.resolutions import resized
from supernet.metrics import TOP1, Metric
from supernet.model import Network
from supernet.progress import Progress, silent
from supernet.size import Size
from supernet.training.evaluation import validate

FORMATS: dict[str, Int8] = {  # by the suffix of their files
    "onnx": int8_onnx.INT8,
    "tflite": int8_tflite.INT8,
    "pte": int8_executorch.INT8,
    "xml": int8_openvino.INT8,
}
NAMED = 3  # layers in a message
JUDGED = 512  # images that layers are compared on


@dataclass(frozen=True)
class Settings:
    """How a network is quantised.

    Args:
        calibration: training images that the ranges of activations are taken from.
        max_drop: percentage points of validation accuracy that it may lose. mixed: keep layers that hurt as floats.
        metric: of that accuracy.
        reference: the accuracy that it may lose them of, in [0, 1]; None: the network's own as floats, which tells
            nothing of one that was trained by fake quantisation.
    """

    calibration: int = 256
    max_drop: float = 1.0
    mixed: bool = False
    metric: Metric = TOP1
    reference: float | None = None

    def __post_init__(self) -> None:
        if self.calibration < 1:
            raise UserError(f"calibration on {self.calibration} images: expected at least 1, such as 256")
        if not 0 <= self.max_drop <= 100:
            raise UserError(f"a drop of at most {self.max_drop:g} points: expected 0 to 100, such as 1")


@dataclass(frozen=True)
class Quantised:
    """A network on 8-bit values.

    Args:
        answers: to all validation images, in the runtime. metric: that it was judged by.
        float_accuracy: by that metric as floats, in [0, 1].
        floats: layers that are not on 8-bit values.
        tested: answers to the test images, where it was run on them.
    """

    file: bytes
    answers: Answers
    float_accuracy: float
    metric: Metric = TOP1
    floats: tuple[str, ...] = ()
    tested: Answers | None = None

    @property
    def accuracy(self) -> float:
        """By the metric, in [0, 1]."""
        return self.answers.share(self.metric)

    @property
    def lost(self) -> float:
        """Percentage points of accuracy; rounded, as 0.91 and 0.9 are one point apart, to 9e-16."""
        return round(100 * (self.float_accuracy - self.accuracy), 9)

    @property
    def precision(self) -> str:
        """As a file's card has it."""
        return f"int8, float32 in {', '.join(self.floats)}" if self.floats else "int8"

    def describe(self) -> str:
        """What the quantisation cost, in words."""
        on = f"{metrics.NAMES[self.metric]} on {len(self.answers):,} validation images"
        return f"{self.precision}: {100 * self.accuracy:.2f} % {on}, as floats {100 * self.float_accuracy:.2f} %"


def of(path: Path) -> Int8:
    """What quantises for files of this name; a UserError where nothing does."""
    suffix = path.suffix[1:]
    if suffix not in FORMATS:
        raise UserError(f"{path}: int8 files end in .{', .'.join(FORMATS)}")
    return FORMATS[suffix]


def quantise(
    network: Network,
    path: Path,
    images: TrainVal,
    settings: Settings,
    batch: int = 1,
    progress: Progress = silent,
) -> Quantised:
    """The network on 8-bit values, run in its runtime on all validation images. Nothing is written.

    Args:
        network: eager, in eval mode. path: of the file that it shall be; its suffix is the format.
        images: of training, to calibrate on, and of validation. batch: in one run of the file.

    Raises:
        UserError: a missing extra, no images to calibrate on, or it loses more than ``settings.max_drop``.
    """
    size = Size(*network.input_shape[1:])
    ranges = batches_of(images.train, settings.calibration, batch, size)
    quantiser = of(path).quantiser(network, network.input_shape, ranges)
    load, reference = formats.of(path).load, settings.reference
    if reference is None:
        reference = validate(network, images.val, metric=settings.metric)

    def judged(floats: Sequence[str] = ()) -> Quantised:
        file = quantiser(floats)
        found = answers(load(file), images.val, batch, size, progress)
        return Quantised(file, found, reference, settings.metric, tuple(floats))

    found = judged()
    if found.lost <= settings.max_drop:
        return found
    keys = _keys(network)
    hurt = by_harm(quantiser, load, list(keys), ranges, progress)
    if settings.mixed and (mixed := _fewest(judged, hurt, settings.max_drop)):
        return mixed
    worst = ", ".join(f"{name} ({keys[name]})" for name in hurt[:NAMED])
    advice = "" if settings.mixed else "keep such layers as floats (mixed), "
    name = metrics.NAMES[settings.metric]
    lost = f"{found.lost:.2f} points of {name} in validation, {100 * reference:.2f} to {100 * found.accuracy:.2f} %"
    raise UserError(
        f"{path} is not written: int8 loses {lost}, at most {settings.max_drop:g} are allowed, and most is lost by "
        f"{worst}: {advice}train the network with fake quantisation (qat), or allow more"
    )


def _keys(network: Network) -> dict[str, str]:
    """What each layer is, by its name; those that compute nothing are left out."""
    specs = layout(network.space).pick(network.arch)
    return {name: spec.key for name, spec in zip(network.named_path(), specs, strict=True) if spec.runs}


def _fewest(judged: Any, hurt: Sequence[str], max_drop: float) -> Quantised | None:
    """With the fewest of the most harmful layers as floats that suffices, by bisection; None if none does."""
    low, high, best = 0, len(hurt), None
    while high - low > 1:
        middle = (low + high) // 2
        found = judged(hurt[:middle])
        if found.lost <= max_drop:
            best, high = found, middle
        else:
            low = middle
    return best


def by_harm(
    quantiser: Quantiser,
    load: Callable[[bytes], Run],
    layers: Collection[str],
    images: Sequence[np.ndarray],
    progress: Progress = silent,
) -> list[str]:
    """Layers by how far the logits are from those of floats where they alone are on 8-bit values, the worst first."""
    some = images[: max(1, JUDGED // len(images[0]))]

    def logits(floats: Collection[str]) -> np.ndarray:
        run = load(quantiser(floats))
        return np.concatenate([run(x) for x in some])

    expected, harm = logits(layers), {}
    with progress("which layers hurt", len(layers), unit="layers") as bar:
        for layer in layers:
            harm[layer] = float(np.square(logits([other for other in layers if other != layer]) - expected).mean())
            bar.advance(1)
    return sorted(harm, key=harm.__getitem__, reverse=True)


def batches_of(images: ImageSet, n: int, batch: int, size: Size) -> list[np.ndarray]:
    """At most ``n`` images, stratified, in batches of exactly so many; the last one is filled up from the first.

    Raises:
        UserError: there are none.
    """
    if not len(images):
        raise UserError("the calibration set is empty: expected training images to take the ranges of int8 from")
    drawn = np.concatenate([x.numpy() for x, _ in _served(images.subset(n, seed=0), 512, size)])
    drawn = np.concatenate([drawn, np.resize(drawn, (-len(drawn) % batch, *drawn.shape[1:]))])
    return np.split(np.ascontiguousarray(drawn), len(drawn) // batch)


def answers(run: Run, images: ImageSet, batch: int, size: Size, progress: Progress = silent) -> Answers:
    """What a file that takes ``batch`` images of ``size`` at once answers to all images."""
    labels, logits = [], []
    with progress("8-bit values", len(images), unit="images") as bar:
        for x, y in _served(images, batch, size):
            logits.append(run(np.resize(x.numpy(), (batch, *x.shape[1:])))[: len(y)])
            labels.append(y.numpy())
            bar.advance(len(y))
    return Answers.of(np.concatenate(logits), np.concatenate(labels))


def _served(images: ImageSet, batch: int, size: Size) -> Iterator[tuple[Tensor, Tensor]]:
    """Plain batches, resized as a network does whose space has a gene for the resolution: its file does not."""
    return ((resized(x, size), y) for x, y in images.plain_batches(batch))
