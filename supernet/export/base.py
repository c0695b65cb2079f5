"""What a file format is: how a network becomes a file, how the file is run, whether metadata lie in it."""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import zipfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from supernet import files
from supernet.errors import UserError

Shape = tuple[int, int, int]  # of one image or feature map: channels, height, width
Run = Callable[[np.ndarray], np.ndarray]


class Pixels(NamedTuple):
    """In place of a ``Shape``: images as files have them, uint8 ``[B, height, width, channels]``."""

    height: int
    width: int
    channels: int


class Options(NamedTuple):
    """What a file may be besides; not every format can."""

    any_batch: bool = False
    """It takes any number of images."""
    opset: int | None = None
    """Of ONNX; None: the exporter's own."""


PLAIN = Options()


class Script(NamedTuple):
    """How a file is run without this library, in lines of Python: what is different in each ``deploy.py``."""

    package: str
    """What is installed for it."""
    imports: str
    open: str
    """From ``FILE``, its path."""
    run: str
    """From ``x``, its input as the file takes it, to ``y``, its output."""


def write_plain(path: Path, file: bytes, network: nn.Module, metadata: dict[str, Any]) -> None:
    """Write the file alone: for formats that have no place for metadata."""
    files.write_bytes(path, file)


class Format(NamedTuple):
    """A format. One file each in ``supernet/export``, one line each in ``FORMATS``."""

    convert: Callable[..., list[bytes]]
    """Eager modules, the shape of one input of each, images in one run, ``Options``: a file of each."""
    load: Callable[[bytes], Run]
    """A file as a function from inputs as its modules had them, but NumPy's, to outputs."""
    script: Script
    packages: tuple[str, ...] = ()
    """Packages whose versions the file depends on."""
    write: Callable[[Path, bytes, nn.Module, dict[str, Any]], None] = write_plain
    """Writes the file of a network, with metadata inside where it has a place for them: plain JSON values."""
    read: Callable[[Path], bytes] = Path.read_bytes
    """What was written, as ``load`` takes it."""
    inside: Callable[[Path], dict[str, Any]] | None = None
    """Reads metadata that lie in the file; of a foreign file it raises whatever its library does."""
    options: frozenset[str] = frozenset()
    """Which of ``Options`` it can."""
    absent: Callable[[], str | None] = lambda: None
    """Why no file can run on this machine, if so: then none is compared before it is written."""
    layout: str = "NCHW"
    """Of the images that a file of floats takes: ``NHWC`` where the runtime has no other."""
    weights: str | None = None
    """The suffix of a file of the same name that is written with it, of its weights."""
    version: Callable[[str], str] = importlib.metadata.version
    """Of a package, where files are converted and quantised."""

    def run(self, file: bytes, x: np.ndarray) -> np.ndarray:
        """What a file gives for an input."""
        return self.load(file)(x)


def pack(**parts: bytes) -> bytes:
    """Files that belong together as one archive: for formats of several."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def unpack(file: bytes, *names: str) -> list[bytes]:
    """The parts of an archive."""
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        return [archive.read(name) for name in names]


Quantiser = Callable[[Collection[str]], bytes]
"""The file of a network on 8-bit values, but for the layers of these names, which stay floats."""


class Int8(NamedTuple):
    """Static quantisation to 8 bits by a runtime's own tools. One file each, one line each in ``int8.FORMATS``."""

    quantiser: Callable[[nn.Module, Shape, Sequence[np.ndarray]], Quantiser]
    """A network, the shape of an image, and batches of images that the ranges of activations are taken from."""
    layers: Callable[[Sequence[nn.Module], Sequence[Shape], int, Sequence[bool]], list[bytes]] | None
    """As ``Format.convert``, by ranges of noise; and of each whether its input is 8-bit, as within a network. None: it
    has no tables of layers."""
    packages: tuple[str, ...] = ()
    """Further packages whose versions the file depends on."""


def sample_input(shape: Shape, batch: int = 1) -> Tensor:
    """The same noise ``[batch, *shape]`` every time: normal floats, or uniform ``Pixels``."""
    drawn = torch.Generator().manual_seed(0)
    if isinstance(shape, Pixels):
        return torch.randint(256, (batch, *shape), generator=drawn, dtype=torch.uint8)
    return torch.randn(batch, *shape, generator=drawn)


def noise_batches(shape: Shape, batch: int) -> list[np.ndarray]:
    """Noise to take ranges from where there are no images: latency does not depend on them."""
    return [sample_input(shape, batch).numpy()]


def line(error: Exception) -> str:
    """What an error says, in one line of no more than 200 characters."""
    return f"{' '.join(str(error).split()):.200}"


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, or a UserError that names the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{module.split('.')[0]} is not installed: pip install 'supernet[{extra}]'") from error
