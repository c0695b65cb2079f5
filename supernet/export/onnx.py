"""ONNX."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from supernet import files
from supernet.errors import UserError
from supernet.export import opset
from supernet.export.base import PLAIN, Format, Options, Run, Script, Shape, require, sample_input
from supernet.export.card import KEY
from supernet.modules import ConvBN

OPSET = 18  # the exporter's own, so nothing is rewritten
IR_VERSION = 10  # what runtimes since 2024 read


class _Together(nn.Module):
    """Modules side by side, so that one export serves them all: each call of the exporter costs a second."""

    def __init__(self, modules: Sequence[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(part(x) for part, x in zip(self.parts, inputs, strict=True))


def _folded(module: nn.Module) -> nn.Module:
    """A copy with BN in the convolutions before it. The exporter does that too, but takes a third longer."""
    module = copy.deepcopy(module).eval()
    for part in module.modules():
        if isinstance(part, ConvBN):
            part.conv = fuse_conv_bn_eval(part.conv, part.bn)
            part.register_module("bn", nn.Identity())
    return module


@torch.no_grad()
def convert(
    modules: Sequence[nn.Module], shapes: Sequence[Shape], batch: int = 1, options: Options = PLAIN
) -> list[bytes]:
    """Eager modules to ONNX models with the input ``x`` and the output ``y``. BN goes into the convolutions.

    Raises:
        UserError: the extra is missing, or the opset is not to be had.
    """
    onnx = require("onnx", "onnx")
    require("onnxscript", "onnx")
    inputs = tuple(sample_input(shape, batch) for shape in shapes)
    together = _Together([_folded(module) for module in modules]).eval()
    sizes = (({0: torch.export.Dim("batch", min=1)},) * len(inputs),) if options.any_batch else None
    wanted = options.opset or OPSET
    newest = onnx.defs.onnx_opset_version()
    if not opset.OLDEST <= wanted <= newest:
        raise UserError(f"opset {wanted}: expected one from {opset.OLDEST} to {newest}")
    settings: dict[str, Any] = {"opset_version": max(wanted, OPSET), "dynamic_shapes": sizes, "verbose": False}
    program = torch.onnx.export(together, inputs, dynamo=True, **settings)
    assert program is not None  # as dynamo=True promises
    model = program.model_proto
    extractor = onnx.utils.Extractor(model)
    models = []
    for x, y in zip(model.graph.input, model.graph.output, strict=True):
        part = extractor.extract_model([x.name], [y.name])
        part.ir_version = IR_VERSION
        for node in part.graph.node:
            node.input[:] = ["x" if name == x.name else name for name in node.input]
            node.output[:] = ["y" if name == y.name else name for name in node.output]
        part.graph.input[0].name, part.graph.output[0].name = "x", "y"
        if wanted < OPSET:
            opset.lower(part, wanted)
        onnx.checker.check_model(part)
        models.append(part.SerializeToString())
    return models


def load(file: bytes) -> Run:
    """A model as a function."""
    session = require("onnxruntime", "onnx").InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]


def write(path: Path, file: bytes, network: nn.Module, metadata: dict[str, Any]) -> None:
    """The model, with the metadata among its properties."""
    model = require("onnx", "onnx").ModelProto.FromString(file)
    model.metadata_props.add(key=KEY, value=json.dumps(metadata))
    files.write_bytes(path, model.SerializeToString())


def inside(path: Path) -> dict[str, Any]:
    """The metadata of a model."""
    model = require("onnx", "onnx").load(path)
    return files.parse({entry.key: entry.value for entry in model.metadata_props}[KEY])


SCRIPT = Script(
    "onnxruntime",
    "import onnxruntime",
    'session = onnxruntime.InferenceSession(FILE, providers=["CPUExecutionProvider"])',
    'y = session.run(None, {"x": x})[0]',
)
OPTIONS = frozenset({"any_batch", "opset"})
FORMAT = Format(convert, load, SCRIPT, ("onnx", "onnxscript"), write, inside=inside, options=OPTIONS)
