"""Layers as files: what the runtimes that execute files share, here and on another device."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import nn

from latency import agent
from supernet import files
from supernet.errors import UserError
from supernet.export import int8
from supernet.export.base import Shape
from supernet.export.formats import FORMATS
from supernet.export.onnx import OPSET
from supernet.footprint import Precision
from supernet.model import Network
from supernet.progress import Progress, silent

SUFFIXES = {"onnxruntime": "onnx", "litert": "tflite", "executorch": "pte", "openvino": "xml", agent.TENSORRT: "onnx"}
CONVERTED_AT_ONCE = 12  # layers in one call of a converter: a kill loses one call, and each has a fixed cost


class Layer(NamedTuple):
    """What is timed under ``key``: a module of one layer or of a whole network, in eval mode."""

    key: str
    module: nn.Module
    shape: Shape
    inner: bool = False  # a layer within a network: where that is on 8-bit values, so is its input


class Converter:
    """Converts layers to files.

    The same converters as of ``supernet.export``: what a table says holds for the exported network.

    Args:
        name: one of ``SUFFIXES``.
        cache: folder that keeps converted layers; without one they last for a ``session``.
        precision: int8 quantises the layers, with ranges of noise.
    """

    kernels = "eager"

    def __init__(
        self, name: str, batch: int = 1, threads: int = 1, cache: Path | None = None, precision: Precision = "float32"
    ):
        if batch < 1 or threads < 1:
            raise UserError(f"expected at least 1 image and 1 thread, got batch {batch} and threads {threads}")
        self.name, self.batch, self.threads = name, batch, threads
        self.suffix = SUFFIXES[name]
        self.cache = cache
        if precision not in get_args(Precision):
            raise UserError(f"unknown precision {precision!r}: expected {' or '.join(get_args(Precision))}")
        require_precision(name, precision)
        self.int8 = int8.FORMATS[self.suffix] if precision == "int8" else None

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that make this runtime again, besides batch and threads."""
        return {"precision": "int8"} if self.int8 else {}

    @property
    def form(self) -> str:
        """How files come to be: all that their content depends on besides the layer."""
        made = FORMATS[self.suffix]
        names = (*made.packages, *(self.int8.packages if self.int8 else ()))
        parts = [f".{self.suffix} by torch {torch.__version__}"]
        parts += [f"opset {OPSET}"] if "onnx" in names else []
        parts += [f"{name} {made.version(name)}" for name in names]
        parts += ["channels_last"] if made.layout == "NHWC" else []
        return ", ".join([*parts, "BN folded", *(["int8"] if self.int8 else [])])

    def path(self, layer: Layer) -> Path:
        """Where the converted layer lies. The name stands for everything but the values of the weights."""
        if self.cache is None:
            raise ValueError("expected a cache, or to be within a session: converted layers have no place else")
        weights = [(name, tuple(weight.shape)) for name, weight in layer.module.state_dict().items()]
        content = repr((layer.key, layer.shape, self.batch, self.form, str(layer.module), weights))
        content += str(layer.inner) if self.int8 else ""
        folder = self.cache / "networks" if isinstance(layer.module, Network) else self.cache
        return folder / f"{hashlib.sha256(content.encode()).hexdigest()[:24]}.{self.suffix}"

    def convert(self, layers: Sequence[Layer], progress: Progress = silent) -> dict[str, Path]:
        """The files of the layers by key; those that are not there yet are made, several at once."""
        paths = {layer.key: self.path(layer) for layer in layers}
        missing = [layer for layer in layers if not paths[layer.key].exists()]
        with progress("converting", len(layers), done=len(layers) - len(missing), unit="layers") as bar:
            at_once = 1 if any(isinstance(layer.module, Network) for layer in missing) else CONVERTED_AT_ONCE
            for i in range(0, len(missing), at_once):
                part = missing[i : i + at_once]
                for layer, file in zip(part, self._converted(part), strict=True):
                    files.write_bytes(paths[layer.key], file)
                bar.advance(len(part))
        return paths

    def _converted(self, layers: Sequence[Layer]) -> list[bytes]:
        modules, shapes = [layer.module for layer in layers], [layer.shape for layer in layers]
        if self.int8 is None or self.int8.layers is None:
            return FORMATS[self.suffix].convert(modules, shapes, self.batch)
        return self.int8.layers(modules, shapes, self.batch, [layer.inner for layer in layers])

    @contextmanager
    def session(self) -> Iterator[None]:
        if self.cache is not None:
            yield
            return
        with tempfile.TemporaryDirectory() as folder:
            self.cache = Path(folder)
            try:
                yield
            finally:
                self.cache = None


def require_precision(runtime: str, precision: Precision) -> None:
    """Refuse int8 layers where the runtime has none here."""
    measured = [suffix for suffix, form in int8.FORMATS.items() if form.layers is not None]
    able = [name for name, suffix in SUFFIXES.items() if suffix in measured]
    if precision == "int8" and runtime not in able:
        raise UserError(f"{runtime} runs layers of float32: int8 runs in {', '.join(able)}")
