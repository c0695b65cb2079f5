"""ExecuTorch programs on 8-bit values: torchao's quantisation of exported graphs, for XNNPACK.

Activations are int8 with a zero point, weights int8 with a scale for each channel.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from supernet.export import executorch
from supernet.export.base import Int8, Shape, noise_batches, require


class Quantiser:
    """Quantises one network.

    Args:
        program: exported, as floats. batches: images of its input's shape.
    """

    def __init__(self, program: torch.export.ExportedProgram, batches: Sequence[np.ndarray]):
        self.program, self.batches = program, batches

    def exported(
        self, floats: Collection[str] = (), into: bool = False, out: bool = False
    ) -> torch.export.ExportedProgram:
        """The graph on 8-bit values, but for the layers ``floats``.

        Args:
            into, out: let whatever it takes, and gives, pass such values.
        """
        pt2e = require("torchao.quantization.pt2e.quantize_pt2e", "executorch")
        xnnpack = require("executorch.backends.xnnpack.quantizer.xnnpack_quantizer", "executorch")
        config = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
        chosen = xnnpack.XNNPACKQuantizer().set_global(config)
        chosen.set_filter_function(lambda node: not _modules(node) & {*floats})
        observed = pt2e.prepare_pt2e(self.program.module(), chosen)
        images = [torch.from_numpy(x) for x in self.batches]
        with torch.no_grad():
            for x in images:
                observed(x)
            graph = _framed(pt2e.convert_pt2e(observed), into, out)
            return torch.export.export(graph, (images[0],))

    def __call__(self, floats: Collection[str] = ()) -> bytes:
        """The program on 8-bit values, but for the layers ``floats``."""
        return executorch.lowered(self.exported(floats))


def _framed(module: fx.GraphModule, into: bool, out: bool) -> fx.GraphModule:
    """Let the input, the output, or both pass 8-bit values, where they do not."""
    steps = torch.ops.quantized_decomposed
    quantise, dequantise = steps.quantize_per_tensor.default, steps.dequantize_per_tensor.default
    graph, parameters = module.graph, (0.02, 0, -128, 127, torch.int8)

    def passed(x: fx.Node, after: fx.Node) -> None:
        readers = list(x.users)
        with graph.inserting_after(after):
            values = graph.call_function(quantise, (x, *parameters))
        with graph.inserting_after(values):
            floats = graph.call_function(dequantise, (values, *parameters))
        for reader in readers:
            reader.replace_input_with(x, floats)

    (x,) = graph.find_nodes(op="placeholder")
    if into and any(reader.target is not quantise for reader in x.users):
        passed(x, x)
    given: Any = graph.output_node().args[0]
    (y,) = given
    if out and y.target is not dequantise:
        passed(y, y)
    module.recompile()
    return module


def _modules(node: fx.Node) -> set[str]:
    """The names of the modules that a node of an exported graph comes from."""
    return {path for path, _ in node.meta.get("nn_module_stack", {}).values()}


def quantiser(network: nn.Module, shape: Shape, batches: Sequence[np.ndarray]) -> Quantiser:
    """What quantises a network for batches of this size; its layers have the names of ``Network.named_path``."""
    require("executorch.exir", "executorch")
    return Quantiser(executorch.exported(network, shape, len(batches[0])), batches)


def layers(modules: Sequence[nn.Module], shapes: Sequence[Shape], batch: int, inner: Sequence[bool]) -> list[bytes]:
    """Modules on 8-bit values, with ranges of noise; what they give are such too if it is feature maps.

    Args:
        inner: whether a module gets 8-bit values, as a layer inside a network does, or images as floats.
    """
    made = []
    for module, shape, within in zip(modules, shapes, inner, strict=True):
        images = noise_batches(shape, batch)
        with torch.no_grad():
            maps = module.eval()(torch.from_numpy(images[0])).dim() == 4
        program = quantiser(module, shape, images).exported((), within, maps)
        made.append(_with_bytes(program, within, maps))
    return made


def _with_bytes(program: torch.export.ExportedProgram, into: bool, out: bool) -> bytes:
    """A program that takes or gives 8-bit values."""
    if not (into or out):
        return executorch.lowered(program)
    passes = require("executorch.exir.passes.quantize_io_pass", "executorch")
    exir = require("executorch.exir", "executorch")
    module = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
    partitioner = module.XnnpackPartitioner()
    whole = exir.EdgeCompileConfig(preserve_ops=list(partitioner.ops_to_not_decompose(program)[0]))
    edge = exir.to_edge(program, compile_config=whole)
    changes: list[Any] = [passes.QuantizeInputs(edge, [0])] if into else []
    changes += [passes.QuantizeOutputs(edge, [0])] if out else []
    return bytes(edge.transform(changes).to_backend(partitioner).to_executorch().buffer)


INT8 = Int8(quantiser, layers, ("executorch", "torchao"))
