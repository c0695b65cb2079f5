"""A found network as a file that other runtimes take, compared with the supernet's path before it is written.

Latency tables are measured on what the same formats convert.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from supernet import files
from supernet.errors import UserError
from supernet.export import card, coreml, executorch, onnx, openvino, pt2, source, tflite
from supernet.export.base import PLAIN, Format, Options, Run, Shape, line, sample_input
from supernet.export.card import Card

TOLERANCE = 1e-4  # largest difference of a logit, of the largest logit; float32, BN folded into convolutions
FORMATS: dict[str, Format] = {  # by the suffix of their files
    "pt2": pt2.FORMAT,
    "onnx": onnx.FORMAT,
    "tflite": tflite.FORMAT,
    "pte": executorch.FORMAT,
    "xml": openvino.FORMAT,
    "mlpackage": coreml.FORMAT,
    "py": source.FORMAT,
}
OPTIONS = {"any_batch": "free number of images", "opset": "opset"}  # in words


def of(path: Path) -> Format:
    """The format that the suffix of a name names; a UserError if none has it."""
    if path.suffix[1:] not in FORMATS:
        raise UserError(f"{path}: expected a file name that ends in .{', .'.join(FORMATS)}")
    return FORMATS[path.suffix[1:]]


def able(path: Path, options: Options) -> Format:
    """The format of ``path``; a UserError if it cannot be as ``options`` want it, or its weights would be written over
    somebody's: a file of their name that lies there without it.
    """
    form = of(path)
    for name in (name for name, value in options._asdict().items() if value and name not in form.options):
        able = ", ".join(f".{suffix}" for suffix, other in FORMATS.items() if name in other.options)
        raise UserError(f"{path}: {path.suffix} files have no {OPTIONS[name]}: expected one of {able}")
    if form.weights and (weights := path.with_suffix(form.weights)).exists() and not path.exists():
        raise UserError(f"{weights} lies there without {path.name}, and would be written over: give another name")
    return form


def export(
    network: nn.Module,
    reference: Callable[[Tensor], Tensor],
    path: Path,
    shape: Shape,
    metadata: dict[str, Any],
    batch: int = 1,
    options: Options = PLAIN,
) -> float | None:
    """Write ``network`` in the format that the suffix of ``path`` names, with its metadata.

    ``.pt2`` comes with the weights as ``.safetensors``, ``.py`` with them as ``.pt``. Metadata lie beside every file,
    in a ``.json`` of its whole name, and inside of ``.onnx``, ``.pt2`` and ``.safetensors``.

    Args:
        network: eager, in eval mode. reference: what it was extracted from: the supernet's path.
        shape: of one input, or its ``Pixels``.
        metadata: plain JSON values.
        batch: images in one run; the files take no other number, unless ``options`` say so.

    Returns:
        The largest difference of an output, relative to the largest output; None if no such file runs here.

    Raises:
        UserError: unknown format, missing extra, or results that differ by more than ``TOLERANCE``: nothing is
            written then.
    """
    form = able(path, options)
    sample = max(batch, 2) if options.any_batch else batch  # one would be taken for fixed
    (file,) = form.convert([network], [shape], sample, options)
    if form.absent():
        write(path, file, network, metadata)
        return None
    run = form.load(file)
    batches = (1, sample, 3) if options.any_batch else (batch,)
    difference = float(np.max([_difference(run, reference, shape, n) for n in batches]))  # NaN where one is
    if not difference <= TOLERANCE:  # NaN is refused too
        raise UserError(
            f"{path} is not written: its logits differ by {difference:.1e} of the largest, at most {TOLERANCE:g} is "
            "taken for rounding; report this architecture"
        )
    write(path, file, network, metadata)
    return difference


def write(path: Path, file: bytes, network: nn.Module, metadata: dict[str, Any]) -> None:
    """Write a file that ``convert`` gave, with its metadata inside and beside it. Arguments as in ``export``."""
    of(path).write(path, file, network, metadata)
    files.write_json(card.beside(path), metadata)


def _difference(run: Run, reference: Callable[[Tensor], Tensor], shape: Shape, batch: int) -> float:
    x = sample_input(shape, batch)
    with torch.inference_mode():
        expected = reference(x).numpy()
    return relative_difference(run(x.numpy()), expected)


def require(suffix: str) -> None:
    """Refuse a format whose converter or runtime is not installed, with a UserError that says how to get it."""
    shape = (1, 1, 1)
    (file,) = FORMATS[suffix].convert([nn.ReLU().eval()], [shape], 1)
    FORMATS[suffix].run(file, sample_input(shape).numpy())


def relative_difference(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest expected value."""
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def read_metadata(path: Path) -> dict[str, Any]:
    """What ``export`` wrote beside ``path``, a file of one of the formats; or inside, as of ``.safetensors``.

    Raises:
        UserError: no such file, or none that ``export`` wrote.
    """
    form = pt2.FORMAT if path.suffix == ".safetensors" else of(path)
    try:
        if form.inside is not None and not card.beside(path).exists():
            return form.inside(path)
        return files.parse(card.beside(path).read_bytes())
    except UserError:
        raise
    except Exception as error:  # each library has its own way to say that a file is none of its own
        raise UserError(f"{path} is no network that was exported here ({line(error)})") from error


def read_card(path: Path) -> Card:
    """The metadata of a network of a run; a UserError where there are none."""
    data = read_metadata(path)
    try:
        return Card.from_json(data)
    except ValueError as error:
        raise UserError(f"{path} was exported without what is known of it ({error}): export it again") from error
