"""ONNX models in older opsets than the exporter writes, for runtimes that stay behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from supernet.errors import UserError
from supernet.export.base import require

OLDEST = 13
FREE = ("allowzero", "noop_with_empty_axes")  # what they say matters for empty tensors and empty axes alone


def lower(model: Any, opset: int) -> None:
    """Rewrite a model in place. Most operators are the same there; whoever calls compares the results.

    Raises:
        UserError: one has no counterpart.
    """
    graph, values = model.graph, require("onnx.numpy_helper", "onnx")
    known = {one.name: values.to_array(one) for one in graph.initializer}
    nodes = [new for node in graph.node for new in _older(node, opset, known)]
    read = {name for node in nodes for name in node.input}
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(values.from_array(value, name) for name, value in known.items() if name in read)
    (main,) = (one for one in model.opset_import if not one.domain)
    main.version = opset


def _older(node: Any, opset: int, known: dict[str, np.ndarray]) -> Iterator[Any]:
    """What computes the same as a node; ``known`` are the model's constants, to which it may add some."""
    onnx = require("onnx", "onnx")
    try:
        schema = onnx.defs.get_schema(node.op_type, max_inclusive_version=opset)
    except onnx.defs.SchemaError:
        schema = None
    later = {one.name: one.i for one in node.attribute if schema and one.name not in schema.attributes}
    if node.op_type == "HardSwish" and schema is None:  # by its definition
        gate = f"{node.output[0]}_gate"
        yield onnx.helper.make_node("HardSigmoid", node.input, [gate], alpha=1 / 6, beta=0.5)
        yield onnx.helper.make_node("Mul", [node.input[0], gate], node.output)
    elif node.op_type == "Shape" and later:  # of some axes: a slice of all
        ends = later.get("start", 0), later.get("end", np.iinfo(np.int64).max)
        names = [f"{node.output[0]}_{part}" for part in ("all", "from", "to")]
        known |= {name: np.array([end]) for name, end in zip(names[1:], ends, strict=True)}
        yield onnx.helper.make_node("Shape", node.input, names[:1])
        yield onnx.helper.make_node("Slice", names, node.output)
    elif schema is None or {name for name, value in later.items() if value} - {*FREE}:
        raise UserError(f"{node.op_type} of this network cannot be written in opset {opset}: take a later one")
    else:
        for one in [one for one in node.attribute if one.name in later]:
            node.attribute.remove(one)
        if len(node.input) > schema.max_input and "axes" in schema.attributes:
            node.attribute.append(onnx.helper.make_attribute("axes", known[node.input.pop(1)].tolist()))
        yield node
