"""torch.export's archives, with the weights as safetensors beside them."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from supernet import files
from supernet.export.base import PLAIN, Format, Options, Run, Script, Shape, sample_input
from supernet.export.card import KEY
from supernet.export.pixels import FromPixels

EXTRA = f"extra/{KEY}", f"extra_files/{KEY}"  # where archives have it: of today's torch, of that before 2.8


@torch.no_grad()
def convert(
    modules: Sequence[nn.Module], shapes: Sequence[Shape], batch: int = 1, options: Options = PLAIN
) -> list[bytes]:
    """Eager modules to torch.export's archives; ``torch.export.load(file).module()(x)`` runs one."""
    archives = []
    sizes = {0: torch.export.Dim("batch", min=1)} if options.any_batch else None
    for module, shape in zip(modules, shapes, strict=True):
        x = sample_input(shape, batch)
        archives.append(_save(torch.export.export(module.eval(), (x,), dynamic_shapes=sizes and (sizes,))))
    return archives


def _save(program: torch.export.ExportedProgram, **options: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Equal values of two buffers are saved as views of one storage: a warning for devices other than the CPU.
        warnings.filterwarnings("ignore", "No complete tensor found")
        torch.export.save(program, file, **options)
    return file.getvalue()


def load(file: bytes) -> Run:
    """An archive as a function."""
    return called(torch.export.load(io.BytesIO(file)).module())


def called(module: nn.Module) -> Run:
    """A module as a function of NumPy's arrays."""

    @torch.inference_mode()
    def run(x: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(x)).numpy()

    return run


def write(path: Path, file: bytes, network: nn.Module, metadata: dict[str, Any]) -> None:
    """The archive, and the network's weights as ``.safetensors``; both hold the metadata."""
    text = json.dumps(metadata)
    own = network.network if isinstance(network, FromPixels) else network
    saved = weights(own, {KEY: text})
    archive = _save(torch.export.load(io.BytesIO(file)), extra_files={KEY: text})
    files.write_bytes(path, archive)  # first, as formats.able takes weights without it for somebody's
    files.write_bytes(path.with_suffix(".safetensors"), saved)


def weights(network: nn.Module, metadata: dict[str, str]) -> bytes:
    """A file of the weights, ``.safetensors``."""
    values = {key: value.contiguous() for key, value in network.state_dict().items()}
    return safetensors.torch.save(values, metadata=metadata)


def inside(path: Path) -> dict[str, Any]:
    """The metadata of an archive, or of the weights beside it; no network is loaded, which may unpickle."""
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, "pt") as file:
            return files.parse(file.metadata()[KEY])
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(EXTRA))
        return files.parse(archive.read(name))


SCRIPT = Script(
    "torch",
    "import torch",
    "model = torch.export.load(FILE).module()",
    "y = model(torch.from_numpy(x)).detach().numpy()",
)
ANY = frozenset({"any_batch"})
FORMAT = Format(convert, load, SCRIPT, (), write, inside=inside, options=ANY, weights=".safetensors")
