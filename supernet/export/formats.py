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

from supernet.errors import UserError
from supernet.export import executorch, onnx, pt2, source, tflite
from supernet.export.base import Format, Shape, sample_input

TOLERANCE = 1e-4  # largest difference of a logit, of the largest logit; float32, BN folded into convolutions
FORMATS: dict[str, Format] = {  # by the suffix of their files
    "pt2": pt2.FORMAT,
    "onnx": onnx.FORMAT,
    "tflite": tflite.FORMAT,
    "pte": executorch.FORMAT,
    "py": source.FORMAT,
}


def export(
    network: nn.Module,
    reference: Callable[[Tensor], Tensor],
    path: Path,
    shape: Shape,
    metadata: dict[str, Any],
    batch: int = 1,
) -> float:
    """Write ``network`` in the format that the suffix of ``path`` names, its metadata inside or beside it.

    ``.pt2`` comes with the weights as ``.safetensors``, ``.py`` with them as ``.pt``; ``.tflite``, ``.pte`` and ``.py``
    carry their metadata in a ``.json`` of the same name, the others inside.

    Args:
        network: eager, in eval mode. reference: what it was extracted from: the supernet's path.
        metadata: plain JSON values. batch: images in one run; the files take no other number.

    Returns:
        The largest difference of a logit, relative to the largest logit.

    Raises:
        UserError: unknown format, missing extra, or results that differ by more than ``TOLERANCE``: nothing is
            written then.
    """
    form = FORMATS.get(path.suffix[1:])
    if form is None:
        raise UserError(f"{path}: expected a file name that ends in .{', .'.join(FORMATS)}")
    (file,) = form.convert([network], [shape], batch)
    x = sample_input(shape, batch)
    with torch.inference_mode():
        expected = reference(x).numpy()
    difference = relative_difference(form.run(file, x.numpy()), expected)
    if not difference <= TOLERANCE:  # NaN is refused too
        raise UserError(
            f"{path} is not written: its logits differ by {difference:.1e} of the largest, at most {TOLERANCE:g} is "
            "taken for rounding; report this architecture"
        )
    form.write(path, file, network, metadata)
    return difference


def require(suffix: str) -> None:
    """Refuse a format whose converter or runtime is not installed, with a UserError that says how to get it."""
    shape = (1, 1, 1)
    (file,) = FORMATS[suffix].convert([nn.ReLU().eval()], [shape], 1)
    FORMATS[suffix].run(file, sample_input(shape).numpy())


def relative_difference(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest expected value."""
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def read_metadata(path: Path) -> dict[str, Any]:
    """What ``export`` wrote inside or beside ``path``, a file of one of the formats or ``.safetensors``.

    Raises:
        UserError: no such file, or none that ``export`` wrote.
    """
    form = pt2.FORMAT if path.suffix == ".safetensors" else FORMATS.get(path.suffix[1:])
    if form is None:
        raise UserError(f"{path}: expected a file name that ends in .{', .'.join(FORMATS)} or .safetensors")
    try:
        return form.read(path)
    except UserError:
        raise
    except Exception as error:  # each library has its own way to say that a file is none of its own
        raise UserError(f"{path} is no network that was exported here ({error})") from error
