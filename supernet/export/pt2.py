"""torch.export's archives, with the weights as safetensors beside them."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from supernet import files
from supernet.export.base import METADATA_KEY, Format, Shape, sample_input


@torch.no_grad()
def convert(modules: Sequence[nn.Module], shapes: Sequence[Shape], batch: int = 1) -> list[bytes]:
    """Eager modules to torch.export's archives; ``torch.export.load(file).module()(x)`` runs one."""
    archives = []
    for module, shape in zip(modules, shapes, strict=True):
        archives.append(_save(torch.export.export(module.eval(), (sample_input(shape, batch),))))
    return archives


def _save(program: torch.export.ExportedProgram, **options: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Equal values of two buffers are saved as views of one storage: a warning for devices other than the CPU.
        warnings.filterwarnings("ignore", "No complete tensor found")
        torch.export.save(program, file, **options)
    return file.getvalue()


def run(file: bytes, x: np.ndarray) -> np.ndarray:
    """Logits ``[B, classes]`` of images ``[B, C, H, W]``."""
    with torch.inference_mode():
        return torch.export.load(io.BytesIO(file)).module()(torch.from_numpy(x)).numpy()


def write(path: Path, file: bytes, network: nn.Module, metadata: dict[str, Any]) -> None:
    """The archive, and the network's weights as ``.safetensors``; both hold the metadata."""
    text = json.dumps(metadata)
    weights = {key: value.contiguous() for key, value in network.state_dict().items()}
    saved = safetensors.torch.save(weights, metadata={METADATA_KEY: text})
    archive = _save(torch.export.load(io.BytesIO(file)), extra_files={METADATA_KEY: text})
    files.write_bytes(path.with_suffix(".safetensors"), saved)
    files.write_bytes(path, archive)


def read(path: Path) -> dict[str, Any]:
    """The metadata of an archive, or of the weights beside it."""
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, "pt") as file:
            return json.loads(file.metadata()[METADATA_KEY])
    extra = {METADATA_KEY: ""}
    torch.export.load(path, extra_files=extra)
    return json.loads(extra[METADATA_KEY])


FORMAT = Format(convert, run, (), write, read)
