"""ONNX models on 8-bit values, by onnxruntime's static quantisation.

Each tensor passes a pair of QuantizeLinear and DequantizeLinear, which the runtime fuses with the operator between;
activations are uint8 with a zero point, weights int8 with a scale for each channel.
"""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from supernet.export import onnx
from supernet.export.base import Int8, Shape, noise_batches, require

SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter notes the modules that a node comes from
MADE, READ = "QuantizeLinear", "DequantizeLinear"
CONTRIBUTED = "com.microsoft"  # operators that onnxruntime has beside ONNX's
TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # the channels


class Quantiser:
    """Quantises one model, which is prepared and whose ranges are measured once.

    Args:
        model: float, as ``onnx.convert`` makes it. layers: the layer of each node that belongs to one, by its name.
        batches: images of the input's shape.
    """

    def __init__(self, model: Any, layers: Mapping[str, str], batches: Sequence[np.ndarray]):
        self.layers, self.batches, self.ranges = layers, batches, b""
        quantization = require("onnxruntime.quantization", "onnx")
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "float.onnx")
            quantization.quant_pre_process(model, source, skip_optimization=True, skip_symbolic_shape=True)
            self.source = source.read_bytes()

    def __call__(self, floats: Collection[str] = ()) -> bytes:
        """The model on 8-bit values, but for the layers ``floats``."""
        quantization = require("onnxruntime.quantization", "onnx")
        with tempfile.TemporaryDirectory() as folder:
            ranges, source, target = (Path(folder, name) for name in ("ranges.json", "float.onnx", "int8.onnx"))
            source.write_bytes(self.source)
            if self.ranges:
                ranges.write_bytes(self.ranges)
            quantization.quantize_static(
                source,
                target,
                _Batches(self.batches),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=[node for node, layer in self.layers.items() if layer in floats],
                extra_options={"ForceQuantizeNoInputCheck": True},  # else a layer that begins with a pooling is float
                calibration_cache_path=ranges,
            )
            self.ranges = ranges.read_bytes()
            return target.read_bytes()


class _Batches:
    """Batches as onnxruntime asks for them."""

    def __init__(self, batches: Iterable[np.ndarray]):
        self.left = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        x = next(self.left, None)
        return None if x is None else {"x": x}


def quantiser(network: nn.Module, shape: Shape, batches: Sequence[np.ndarray]) -> Quantiser:
    """What quantises a network for batches of this size; its layers have the names of ``Network.named_path``."""
    (file,) = onnx.convert([network], [shape], len(batches[0]))
    model = require("onnx", "onnx").ModelProto.FromString(file)
    return Quantiser(model, dict(layers_of(model, network)), batches)


def layers_of(model: Any, network: Any) -> Iterator[tuple[str, str]]:
    """The name of each node that comes from a layer, and that of the layer."""
    names = network.named_path()
    for node in model.graph.node:
        scopes = ast.literal_eval({p.key: p.value for p in node.metadata_props}.get(SCOPES, "[]"))
        inner = [scope.split(".", 2)[2] for scope in scopes if scope.count(".") > 1]  # without that of `_Together`
        if layer := next((name for name in inner if name in names), None):
            yield node.name, layer


def layers(modules: Sequence[nn.Module], shapes: Sequence[Shape], batch: int, inner: Sequence[bool]) -> list[bytes]:
    """Modules on 8-bit values, with ranges of noise.

    Between layers of a network on 8-bit values, onnxruntime has the channels last: feature maps come and go so.

    Args:
        inner: whether a module gets 8-bit values, as a layer inside a network does, or images as floats. What it
            gives are 8-bit values if they are feature maps, else floats.
    """
    protos = require("onnx", "onnx").ModelProto
    made = []
    for file, shape, within in zip(onnx.convert(modules, shapes, batch), shapes, inner, strict=True):
        model = protos.FromString(Quantiser(protos.FromString(file), {}, noise_batches(shape, batch))())
        if within:
            _take_bytes(model.graph)
        if len(model.graph.output[0].type.tensor_type.shape.dim) == 4:
            _give_bytes(model.graph)
        _pool_alone(model)
        made.append(model.SerializeToString())
    return made


def _take_bytes(graph: Any) -> None:
    """Let the input be 8-bit values in channels_last; what reads floats gets them made of these."""
    (x,) = graph.input
    readers = [node for node in graph.node if x.name in node.input]
    if [node.op_type for node in readers] == [MADE]:
        graph.node.remove(readers[0])
        graph.node.insert(0, _node("Transpose", x.name, readers[0].output[0], perm=TO_FIRST))
    else:
        for node in readers:
            node.input[:] = ["x_float" if name == x.name else name for name in node.input]
        graph.node.insert(0, _node(READ, "x_bytes", "x_float", _step(graph)))
        graph.node.insert(0, _node("Transpose", x.name, "x_bytes", perm=TO_FIRST))
    _as_bytes(x)


def _give_bytes(graph: Any) -> None:
    """Let the output be 8-bit values in channels_last, made of floats if it was not made of such."""
    (y,) = graph.output
    (last,) = (node for node in graph.node if y.name in node.output)
    if last.op_type == READ:
        graph.node.remove(last)
        made = last.input[0]
    else:
        made, last.output[:] = "y_bytes", ["y_float"]
        graph.node.append(_node(MADE, "y_float", made, _step(graph)))
    graph.node.append(_node("Transpose", made, y.name, perm=TO_LAST))
    _as_bytes(y)


def _pool_alone(model: Any) -> None:
    """Max pooling with the channels last, as onnxruntime has it beside convolutions; alone it transposes instead."""
    graph, helper = model.graph, require("onnx.helper", "onnx")
    if [node.op_type for node in graph.node] == ["Transpose", READ, "MaxPool", MADE, "Transpose"]:
        attributes = [
            a for a in graph.node[2].attribute if a.name != "storage_order"
        ]  # which means nothing without indices
        del graph.node[:], graph.initializer[:]
        pool = helper.make_node("NhwcMaxPool", [graph.input[0].name], [graph.output[0].name], domain=CONTRIBUTED)
        pool.attribute.extend(attributes)
        graph.node.append(pool)
        model.opset_import.append(helper.make_opsetid(CONTRIBUTED, 1))


def _node(kind: str, source: str, target: str, parameters: Sequence[str] = (), **attributes: Any) -> Any:
    return require("onnx.helper", "onnx").make_node(kind, [source, *parameters], [target], **attributes)


def _step(graph: Any) -> tuple[str, str]:
    """The names of some scale and zero point."""
    arrays = require("onnx.numpy_helper", "onnx")
    names = f"scale_{len(graph.initializer)}", f"zero_{len(graph.initializer)}"
    for name, value in zip(names, (np.float32(0.02), np.uint8(128)), strict=True):
        graph.initializer.append(arrays.from_array(np.asarray(value), name))
    return names


def _as_bytes(value: Any) -> None:
    """uint8 ``[B, H, W, C]`` in place of float32 ``[B, C, H, W]``."""
    helper, uint8 = require("onnx.helper", "onnx"), require("onnx", "onnx").TensorProto.UINT8
    sizes = [size.dim_value for size in value.type.tensor_type.shape.dim]
    value.CopyFrom(helper.make_tensor_value_info(value.name, uint8, [sizes[axis] for axis in TO_LAST]))


INT8 = Int8(quantiser, layers, ("onnxruntime",))
