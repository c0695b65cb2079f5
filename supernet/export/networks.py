"""The networks of a run that can be exported, and the files that come of them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from supernet import families, files, metrics
from supernet.data.images import ImageSet
from supernet.data.preparation import Preparation
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.export import formats, int8
from supernet.export.base import PLAIN, Options, Pixels
from supernet.export.card import Accuracy, Card
from supernet.export.pixels import FromPixels
from supernet.methods import spos
from supernet.metrics import TOP1, Metric
from supernet.model import Network, Supernet
from supernet.progress import Progress, silent
from supernet.run_files import INT8, RESULT
from supernet.runs import RECORD, RunFolder
from supernet.size import Size
from supernet.space import Arch, Space
from supernet.training.bn import recalibrate_bn


class Found(NamedTuple):
    """A network to be written."""

    arch: Arch
    network: Network  # eager, in eval mode
    reference: Callable[[Tensor], Tensor]  # what it was extracted from
    accuracy: Accuracy = Accuracy()


def trained(run: RunFolder, space: Space, pick: str) -> Found:
    """The network in the folder ``pick`` of a run; one that the search trained, as DSNAS's child, is not tested, nor is
    one as floats that was fine-tuned by fake quantisation.

    Raises:
        UserError: there is none, or it was trained for an earlier search.
    """
    own = run.network(pick)
    network = own.trained(space)
    if run.front_path.exists() and run.stale(pick, network.arch, run.front(space)):
        raise UserError(
            f"{own.path} was trained for an earlier search, the front has another network for {pick} now",
            missing="network",
        )
    # One of fake quantisation was judged by that, which a file of floats does not do.
    read = {} if pick.endswith(INT8) else _result(own)
    return Found(network.arch, network, network, Accuracy.of(read, read.get("metric", TOP1)))


def judged(run: RunFolder, pick: str) -> tuple[Metric, float | None]:
    """By what retrain.py compared the network in the folder ``pick`` of a run, and its value in validation.

    Top-1 and None where it did not train it.
    """
    read = _result(run.network(pick))
    metric = read.get("metric", TOP1)
    return metric, read.get(metrics.key("val", metric))


def _result(own: RunFolder) -> dict[str, Any]:
    """What retrain.py found of a network; nothing where it did not train it."""
    path = own.result_path
    return files.read_json(path, "result", expected=RESULT, missing="network") if path.exists() else {}


def from_supernet(
    run: RunFolder,
    space: Space,
    arch: Arch,
    recalibration: tuple[int, int],
    data_root: Path | None = None,
    workers: int = 0,
) -> Found:
    """An architecture with the supernet's weights; the reference is the supernet's own path.

    Args:
        recalibration: batches and images per batch that its BN statistics are taken from.
        workers: processes that decode the images.
    """
    cpu = torch.device("cpu")
    supernet = run.supernet(space, cpu, run.kernels(cpu))
    images = run.images(data_root, workers=workers)
    return recalibrated(supernet, space.check(arch), spos.recalibration_images(images, *recalibration))


def recalibrated(supernet: Supernet, arch: Arch, images: Iterable[Tensor]) -> Found:
    """A path of a supernet, which is left with the BN statistics of these images; its accuracy is not known."""
    recalibrate_bn(supernet.eval(), images, arch)
    return Found(arch, supernet.extract(arch), lambda x: supernet(x, arch))


class Images(NamedTuple):
    """What is known of the images of a run."""

    preparation: Preparation | None = None
    classes: tuple[str, ...] = ()


def images_of(run: RunFolder, data_root: Path | None = None) -> Images:
    """As the run recorded it, or, where it began with a version that did not, of the images themselves.

    Nothing where there are none: of a run without images of classes, or images that are gone.
    """
    record = run.config().get(RECORD, {})
    if "preparation" in record:
        return Images(Preparation.from_json(record["preparation"]), tuple(record["data"]["classes"]))
    try:
        images = run.images(data_root)
    except UserError as error:
        logging.getLogger("supernet").warning("how images are prepared is not known: %s", error)
        return Images()
    return Images(images.train.preparation, images.class_names)


def card(
    run: RunFolder,
    space: Space,
    found: Found,
    images: Images,
    latency_ms: float | None = None,
    lut: Mapping | None = None,
) -> Card:
    """What a file of the network carries, which takes one image as floats.

    Args:
        latency_ms: predicted. lut: which table predicted it, in plain JSON.
    """
    shape = families.input_shape(space, found.arch)
    other = None if shape[1:] == space.input_size else space.input_size
    return Card(
        space={"name": space.name, "fingerprint": space.fingerprint},
        arch=found.arch,
        layers=space.describe(found.arch),
        classes=images.classes or [str(label) for label in range(space.classes)],
        preparation=images.preparation and images.preparation.at(shape[1:]),
        shape=shape,
        accuracy=dataclasses.replace(found.accuracy, size=other),
        latency_ms=latency_ms,
        lut=lut,
        made_from=run.origin(),
    )


def write(found: Found, path: Path, card: Card, options: Options = PLAIN) -> float | None:
    """Write the network with its card, as ``formats.export`` does; returns what that does.

    Args:
        card: says whether pixels or floats come in, how many images, and what is known.
    """
    form, (channels, height, width) = formats.able(path, options), card.shape
    network: nn.Module = found.network
    reference, shape = found.reference, card.shape
    if card.pixels:
        if card.preparation is None or card.preparation.fit is None:
            raise UserError(f"{path}: the preparation of its images is not known: export it without")
        network, reference = (FromPixels(inner, card.preparation) for inner in (network, reference))
        shape = Pixels(height, width, channels)
    card = dataclasses.replace(
        card, layout="NHWC" if card.pixels else form.layout, batch=None if options.any_batch else card.batch
    )
    return formats.export(network, reference, path, shape, card.to_json(), card.batch or 1, options)


def write_int8(
    found: Found,
    path: Path,
    card: Card,
    images: TrainVal,
    settings: int8.Settings,
    progress: Progress = silent,
    test: ImageSet | None = None,
) -> int8.Quantised:
    """Write the network on 8-bit values with its card, unless it loses too much: see ``int8.quantise``.

    Args:
        test: images that the file is run on, once it is decided, for its card.
    """
    batch, form = card.batch or 1, formats.of(path)
    made = int8.quantise(found.network, path, images, settings, batch, progress)
    row = made.answers.result("val")
    if test is not None:
        tested = int8.answers(form.load(made.file), test, batch, Size(*card.shape[1:]), progress)
        made, row = dataclasses.replace(made, tested=tested), row | tested.result("test")
    known = Accuracy.of(row, settings.metric, card.accuracy.size)
    card = dataclasses.replace(card, precision=made.precision, accuracy=known, layout=form.layout)
    formats.write(path, made.file, found.network, card.to_json())
    return made
