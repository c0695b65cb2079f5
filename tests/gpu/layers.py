"""Eight layers in inference, batch 1 and 64: the fused operators against what PyTorch offers for the same layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from bench.int8_cases import convolution
from bench.kernel_cases import OURS, Branch, bottleneck_layers, image, separable_layers
from torch import Tensor

from gpu.stage import Machine, Results, require_alive, require_ours
from gpu.timing import copies, side_by_side
from supernet import ops, quantized

BATCHES = (64, 1)
TF32, INT8 = "TF32", "int8"
# PyTorch has no convolution in int8 on a GPU: ours is compared with all that it has in bfloat16.
TYPES = {"float32": torch.float32, TF32: torch.float32, "bfloat16": torch.bfloat16, INT8: torch.uint8}

Form = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Layer:
    """dw_separable, or inverted_bottleneck where there are ``expanded`` channels."""

    channels: int
    expanded: int | None
    outputs: int
    size: int
    kernel: int
    stride: int

    @property
    def operator(self) -> str:
        return "inverted_bottleneck" if self.expanded else "dw_separable"

    @property
    def shape(self) -> str:
        widths = [self.channels, self.expanded, self.outputs]
        return f"{'→'.join(str(w) for w in widths if w)}×{self.size}² k{self.kernel} s{self.stride}"

    @property
    def residual(self) -> bool:
        return bool(self.expanded) and self.stride == 1 and self.channels == self.outputs

    def branch(self) -> Branch:
        widths = (self.channels, self.expanded, self.outputs) if self.expanded else (self.channels, self.outputs)
        layers = (bottleneck_layers if self.expanded else separable_layers)(*widths, self.kernel, self.stride)
        return Branch(layers, self.residual).eval()

    def ours(self) -> Callable[..., Tensor]:
        if self.expanded:
            return partial(ops.inverted_bottleneck, residual=self.residual, stride=self.stride, act="relu6")
        return partial(ops.dw_separable, stride=self.stride, mid_act="relu6")

    def quantised(self) -> Form:
        """Ours on 8-bit values, with weights."""
        c, m, o, k = self.channels, self.expanded, self.outputs, self.kernel
        if not m:
            pair = convolution(c, 1, k), convolution(o, c, 1)
            return lambda x: quantized.dw_separable(x, *pair, stride=self.stride)
        convs, residual = (convolution(m, c, 1), convolution(m, 1, k), convolution(o, m, 1)), None
        if self.residual:
            residual = quantized.QuantisedSum(0.5, 0.5, 0)
        return lambda x: quantized.inverted_bottleneck(x, *convs, residual=residual, stride=self.stride)


# Those that docs/performance.md models: maps of 28², 14² and 7², kernels 3 and 5, both strides.
LAYERS = (
    Layer(96, None, 24, 28, 3, 1),
    Layer(144, None, 32, 28, 5, 2),
    Layer(192, None, 64, 14, 3, 1),
    Layer(576, None, 160, 14, 3, 2),
    Layer(24, 144, 24, 28, 3, 1),
    Layer(32, 192, 64, 28, 5, 2),
    Layer(64, 384, 64, 14, 5, 1),
    Layer(160, 960, 160, 7, 3, 1),
)


def run(machine: Machine, results: Results) -> None:
    machine.require()
    torch.backends.cudnn.benchmark = True  # PyTorch's best
    layers, batches = (LAYERS[::4], BATCHES[1:]) if machine.dry else (LAYERS, BATCHES)
    # Compiling takes most of the time, and a CPU minutes: what does not need it comes first.
    for compiled in (False,) if machine.dry else (False, True):
        for batch, layer, kind in product(batches, layers, TYPES):
            case = {"operator": layer.operator, "shape": layer.shape, "batch": batch, "type": kind}
            case["compiled"] = compiled
            if not results.known(case) and not (compiled and kind == INT8):
                with torch.inference_mode():
                    results.add(case | measured(machine, layer, batch, kind, compiled))
                require_alive(machine, results.data["results"][-1])
    require_ours(results)


def measured(machine: Machine, layer: Layer, batch: int, kind: str, compiled: bool) -> dict[str, Any]:
    """Milliseconds of each form on inputs that are not in L2 when their turn comes."""
    torch.manual_seed(0)
    # Ours follow the switch of products, cuDNN's convolutions their own.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = kind == TF32
    dtype = TYPES[kind]
    count = copies(machine, dtype.itemsize * batch * layer.channels * layer.size**2)
    with torch.device(machine.device):
        xs = [image(batch, layer.channels, layer.size, grad=False).to(dtype) for _ in range(count)]
        forms = {OURS: layer.quantised()} if kind == INT8 else floats(layer, layer.branch().to(dtype), compiled)
    found, failed = side_by_side(machine, {name: [partial(form, x) for x in xs] for name, form in forms.items()})
    return {"inputs": count, "ms": found, "failed": failed}


def floats(layer: Layer, branch: Branch, compiled: bool) -> dict[str, Form]:
    """Ours and PyTorch's, or PyTorch's that is compiled."""
    if compiled:
        torch.compiler.reset()
        return {"inductor": torch.compile(branch.folded(), dynamic=False)}
    ours, parameters = layer.ours(), branch.affine()
    return {OURS: lambda x: ours(x, *parameters), "eager": branch, "eager, BN folded": branch.folded()}
