"""Eight layers in inference, batch 1 and 64: the fused operators against what PyTorch offers for the same layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from bench.kernel_cases import OURS, Branch, bottleneck_layers, image, separable_layers
from torch import Tensor

from gpu.stage import Machine
from gpu.timing import copies, side_by_side
from supernet import ops

BATCHES = (64, 1)
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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

Form = Callable[[Tensor], Any]


def run(machine: Machine, add: Callable[[dict], None]) -> None:
    machine.require()
    torch.backends.cudnn.benchmark = True  # PyTorch's best
    layers, batches = (LAYERS[::4], BATCHES[1:]) if machine.dry else (LAYERS, BATCHES)
    cases = [(layer, batch, kind) for batch in batches for layer in layers for kind in TYPES]
    # Compiling takes most of the time, and a CPU minutes: what does not need it comes first.
    for forms in (own_and_eager,) if machine.dry else (own_and_eager, inductor):
        for layer, batch, kind in cases:
            with torch.inference_mode():
                add(measured(machine, layer, batch, kind, forms))


def measured(machine: Machine, layer: Layer, batch: int, kind: str, forms: Callable[..., Iterator]) -> dict[str, Any]:
    """Milliseconds of each form on inputs that are not in L2 when their turn comes."""
    torch.manual_seed(0)
    dtype = TYPES[kind]
    count = copies(machine, dtype.itemsize * batch * layer.channels * layer.size**2)
    with torch.device(machine.device):
        branch = layer.branch().to(dtype)
        xs = [image(batch, layer.channels, layer.size, grad=False).to(dtype) for _ in range(count)]
    found, failed = {}, {}
    for name, form, tf32 in forms(layer, branch, kind):
        # Read when a form is captured.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        times, reasons = side_by_side(machine, {name: [partial(form, x) for x in xs]})
        found |= times
        failed |= reasons
    case = {"operator": layer.operator, "shape": layer.shape, "batch": batch, "type": kind, "inputs": count}
    return case | {"ms": found, "failed": failed}


def own_and_eager(layer: Layer, branch: Branch, kind: str) -> Iterator[tuple[str, Form, bool]]:
    """Name, form, and whether PyTorch may take TF32 in it."""
    ours, parameters, folded = layer.ours(), branch.affine(), branch.folded()
    yield OURS, lambda x: ours(x, *parameters), False
    yield "eager", branch, False
    yield "eager, BN folded", folded, False
    if kind == "float32":
        yield "eager, BN folded, TF32", folded, True


def inductor(layer: Layer, branch: Branch, kind: str) -> Iterator[tuple[str, Form, bool]]:
    """The same, compiled."""
    torch.compiler.reset()
    yield "inductor", torch.compile(branch.folded(), dynamic=False), False
