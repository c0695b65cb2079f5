"""OpenVINO's intermediate representation, ``.xml`` with its weights beside it as ``.bin``: converted from ONNX."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from supernet import files
from supernet.export import onnx
from supernet.export.base import PLAIN, Format, Options, Run, Script, Shape, pack, require, unpack
from supernet.export.card import KEY

PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}  # else it computes in bfloat16 where the processor has that


def convert(
    modules: Sequence[nn.Module], shapes: Sequence[Shape], batch: int = 1, options: Options = PLAIN
) -> list[bytes]:
    """Eager modules to archives of a representation and its weights, float32."""
    core = require("openvino", "openvino").Core()
    models = onnx.convert(modules, shapes, batch, options)
    return [archive(core.read_model(io.BytesIO(model))) for model in models]


def archive(model: Any) -> bytes:
    """A representation and its weights as one file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.xml")
        require("openvino", "openvino").save_model(model, path, compress_to_fp16=False)
        return pack(xml=path.read_bytes(), bin=path.with_suffix(".bin").read_bytes())


def load(file: bytes) -> Run:
    """A model as a function, on the CPU."""
    core = require("openvino", "openvino").Core()
    model = core.compile_model(core.read_model(*unpack(file, "xml", "bin")), "CPU", PRECISION)
    return lambda x: model(x)[0].copy()


def write(path: Path, file: bytes, network: nn.Module, metadata: dict[str, Any]) -> None:
    """The representation with the metadata in its runtime information, and the weights."""
    model = require("openvino", "openvino").Core().read_model(*unpack(file, "xml", "bin"))
    model.set_rt_info(json.dumps(metadata), KEY)
    xml, weights = unpack(archive(model), "xml", "bin")
    files.write_bytes(path, xml)  # first, as formats.able takes weights without it for somebody's
    files.write_bytes(path.with_suffix(".bin"), weights)


def read(path: Path) -> bytes:
    """The representation and its weights as one archive again."""
    return pack(xml=path.read_bytes(), bin=path.with_suffix(".bin").read_bytes())


def inside(path: Path) -> dict[str, Any]:
    """The metadata of a model."""
    return files.parse(require("openvino", "openvino").Core().read_model(path).get_rt_info(KEY).astype(str))


SCRIPT = Script(
    "openvino",
    "import openvino",
    f'model = openvino.Core().compile_model(FILE, "CPU", {json.dumps(PRECISION)})',
    "y = model(x)[0]",
)
PACKAGES = ("onnx", "onnxscript", "openvino")
FORMAT = Format(convert, load, SCRIPT, PACKAGES, write, read, inside, frozenset({"any_batch"}), weights=".bin")
