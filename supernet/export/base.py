"""What a file format is: how a network becomes a file, how the file is run, where its metadata go."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from supernet import files
from supernet.errors import UserError

METADATA_KEY = "supernet"

Shape = tuple[int, int, int]  # of one image or feature map: channels, height, width


def write_beside(path: Path, file: bytes, network: nn.Module, metadata: dict[str, Any]) -> None:
    """Write the file, and its metadata as a ``.json`` of the same name: for formats that have no place for them."""
    files.write_json(path.with_suffix(".json"), metadata)
    files.write_bytes(path, file)


def read_beside(path: Path) -> dict[str, Any]:
    """The metadata beside a file."""
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


class Format(NamedTuple):
    """A format. One file each in ``supernet/export``, one line each in ``FORMATS``."""

    convert: Callable[[Sequence[nn.Module], Sequence[Shape], int], list[bytes]]
    """Eager modules, the shape of one input of each, images in one run: a file of each."""
    run: Callable[[bytes, np.ndarray], np.ndarray]
    """Logits ``[B, classes]`` of images ``[B, C, H, W]`` by a file."""
    packages: tuple[str, ...] = ()
    """Packages of its extra whose versions the file depends on."""
    write: Callable[[Path, bytes, nn.Module, dict[str, Any]], None] = write_beside
    """Writes the file of a network with its metadata, plain JSON values."""
    read: Callable[[Path], dict[str, Any]] = read_beside
    """The metadata; of a foreign file it raises whatever its library does."""


def sample_input(shape: Shape, batch: int = 1) -> Tensor:
    """The same normal noise ``[batch, *shape]`` every time."""
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, or a UserError that names the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{module.split('.')[0]} is not installed: pip install 'supernet[{extra}]'") from error
