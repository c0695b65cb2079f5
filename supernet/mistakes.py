"""The surest mistakes of a classifier, as small pictures with what they are and what they are taken for."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from supernet import files
from supernet.data.images import ImageSet
from supernet.shape import SHARE

LOOKED_AT = 2000  # images at most
KEPT = 18
SIDE = 96  # pixels of a picture at most
FILE = {"schema": 1, "of": int, "images": [{"class": str, "taken_for": str, "sure": SHARE, "png": str}]}


@torch.inference_mode()
def find(network: nn.Module, images: ImageSet, names: Sequence[str]) -> dict[str, Any]:
    """The mistakes that the network gives the highest probability, in the shape of ``FILE``.

    Args:
        network: in eval mode. names: of the classes.
    """
    device, some = next(network.parameters()).device, images.subset(LOOKED_AT, seed=0)
    found: list[tuple[float, int, int, Tensor]] = []
    for x, y in some.in_order(256):
        sure, said = network(x.to(device)).float().softmax(1).max(1)
        wrong = (said.cpu() != y).nonzero()[:, 0].tolist()
        found += [(float(sure[i]), int(y[i]), int(said[i]), x[i]) for i in wrong]
        found = sorted(found, key=lambda one: -one[0])[:KEPT]
    rows = [
        {"class": names[label], "taken_for": names[said], "sure": sure, "png": picture(x, images.mean, images.std)}
        for sure, label, said, x in found
    ]
    return {"schema": 1, "of": len(some), "images": rows}


def picture(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> str:
    """An image as it is served, ``[C, H, W]``, as a PNG file in base64: its first channel or three."""
    shown = slice(0, 3 if len(x) >= 3 else 1)
    pixels = x.float().numpy()[shown] * np.array(std)[shown, None, None] + np.array(mean)[shown, None, None]
    values = (255 * pixels).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    image = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def write(path: Path, network: nn.Module, images: ImageSet, names: Sequence[str]) -> None:
    """``find``, as a file."""
    files.write_json(path, find(network.eval(), images, names))


def read(path: Path) -> dict[str, Any]:
    """What ``write`` wrote; a UserError where it is damaged."""
    return files.read_json(path, "file of mistakes", expected=FILE, missing="network")
