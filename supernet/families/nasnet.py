"""The cells of NASNet-A, as modules of a stage.

Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition", Figure 4 and Appendix A.4. A cell
reads the outputs of the two cells before it, so cells hand on a pair: the last output and their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.modules import ConvBN, PoolHead
from supernet.norm import BatchNorm
from supernet.spec import Block, Conv, LayerSpec

# A block adds two operations, each of a hidden state: 0 the last output, 1 the one before, 2 … the blocks so far.
NORMAL = (
    (("sep5", 0), ("sep3", 1)),
    (("sep5", 1), ("sep3", 1)),
    (("avg3", 0), ("none", 1)),
    (("avg3", 1), ("avg3", 1)),
    (("sep3", 0), ("none", 0)),
)
REDUCTION = (
    (("sep5", 0), ("sep7", 1)),
    (("max3", 0), ("sep7", 1)),
    (("avg3", 0), ("sep5", 1)),
    (("none", 3), ("avg3", 2)),
    (("sep3", 2), ("max3", 0)),
)
# The states that no block reads make the output.
NORMAL_OUTPUT, REDUCTION_OUTPUT = (1, 2, 3, 4, 5, 6), (3, 4, 5, 6)
SIDES = ("left", "right")


def with_inputs(modules: Sequence[LayerSpec]) -> list[LayerSpec]:
    """The cells of a stage with the channels of their second inputs.

    The first one reads the last output and the one before (of a reduction, both are of the stage before); the
    second one what entered the first: at stride 2 the reduction's output of four parts, else the stem's.
    """
    first, *rest = modules
    entered = 4 * first.out_channels // 6 if first.stride == 2 else first.in_channels
    befores = [first.in_channels, entered, *[spec.out_channels for spec in rest]]
    return [replace(spec, before=before) for spec, before in zip(modules, befores, strict=False)]


class SeparableTwice(nn.Module):
    """ReLU, depthwise k×k, pointwise, BN, and the same again; the stride is the first one's."""

    @staticmethod
    def convs(channels: int, kernel: int, size: int, stride: int) -> dict[str, Conv]:
        """``size`` of the output."""
        convs = {}
        for i, s in ((1, stride), (2, 1)):
            convs[f"depthwise{i}"] = Conv(channels, channels, kernel, size, s, groups=channels, norm=False)
            convs[f"pointwise{i}"] = Conv(channels, channels, 1, size)
        return convs

    def __init__(self, channels: int, kernel: int, stride: int, **options):
        super().__init__()
        self.depthwise1 = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)
        self.pointwise1 = ConvBN(Conv(channels, channels, 1, 0), **options)
        self.depthwise2 = nn.Conv2d(channels, channels, kernel, 1, kernel // 2, groups=channels, bias=False)
        self.pointwise2 = ConvBN(Conv(channels, channels, 1, 0), **options)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pointwise1(self.depthwise1(F.relu(x)))
        return self.pointwise2(self.depthwise2(F.relu(x)))


class Squeeze(nn.Module):
    """ReLU, 1×1 convolution, BN."""

    def __init__(self, cin: int, channels: int, **options):
        super().__init__()
        self.conv = ConvBN(Conv(cin, channels, 1, 0), **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(x))


class FactorizedReduction(nn.Module):
    """ReLU; every second pixel, and those down and right of them, each by a 1×1 convolution to half of the channels."""

    def __init__(self, cin: int, channels: int, affine: bool, eps: float, **_):
        super().__init__()
        self.even = nn.Conv2d(cin, channels // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(cin, channels // 2, 1, 2, bias=False)
        self.bn = BatchNorm(channels, eps=eps, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return self.bn(torch.cat((self.even(x), self.odd(F.pad(x, (-1, 1, -1, 1)))), 1))


class Cell(nn.Module):
    """Five blocks of two operations each.

    Args:
        blocks, output: NORMAL and NORMAL_OUTPUT, or those of the reduction, whose operations on inputs have stride 2.
        cin, before: channels of the last output and of the one before.
        channels: F, of every hidden state.
        halve: the output before is twice as large as the last one.
    """

    def __init__(self, blocks, output, cin: int, before: int, channels: int, halve: bool = False, **options):
        super().__init__()
        self.blocks, self.output = blocks, output
        self.squeeze = Squeeze(cin, channels, **options)
        self.squeeze_before = (FactorizedReduction if halve else Squeeze)(before, channels, **options)
        self.strides = (2, 2) if blocks is REDUCTION else (1, 1)
        self.separable = nn.ModuleDict(
            {name: SeparableTwice(channels, kernel, stride, **options) for name, kernel, stride in separables(blocks)}
        )

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        states = [self.squeeze(x), self.squeeze_before(before)]
        for i, block in enumerate(self.blocks):
            named = zip(block, SIDES, strict=True)
            left, right = (self.apply_one(op, states, j, f"block{i}_{side}") for (op, j), side in named)
            states.append(left + right)
        return torch.cat([states[i] for i in self.output], 1)

    def apply_one(self, op: str, states: Sequence[Tensor], index: int, name: str) -> Tensor:
        """One operation of a hidden state."""
        x, stride = states[index], (*self.strides, *[1] * len(states))[index]
        if op == "none":
            return x
        if op == "avg3":
            return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
        if op == "max3":
            return F.max_pool2d(x, 3, stride, 1)
        return self.separable[name](x)


def separables(blocks) -> list[tuple[str, int, int]]:
    """Name, kernel and stride of each separable convolution of a cell."""
    return [
        (f"block{i}_{side}", int(op[3:]), 2 if blocks is REDUCTION and j < 2 else 1)
        for i, block in enumerate(blocks)
        for (op, j), side in zip(block, SIDES, strict=True)
        if op.startswith("sep")
    ]


def cell_convs(blocks, cin: int, before: int, channels: int, size: int, halve: bool = False) -> dict[str, Conv]:
    """The convolutions of a ``Cell``; ``size`` of its inputs, of the last output where they differ."""
    convs = {"squeeze.conv": Conv(cin, channels, 1, size)}
    if halve:  # its one BN counts with the two halves
        halves = ("even", "odd")
        convs |= {f"squeeze_before.{half}": Conv(before, channels // 2, 1, size, 2) for half in halves}
    else:
        convs["squeeze_before.conv"] = Conv(before, channels, 1, size)
    out = -(-size // 2) if blocks is REDUCTION else size
    for name, kernel, stride in separables(blocks):
        both = SeparableTwice.convs(channels, kernel, out, stride)
        convs |= {f"separable.{name}.{part}": conv for part, conv in both.items()}
    return convs


class NASNetModule(Block, nn.Module):
    """A normal cell; at stride 2 a reduction cell goes before it."""

    op = "nasnet"

    @staticmethod
    def kept(spec: LayerSpec, conv: str) -> int:
        """At the last addition: four of the six parts of the output, both inputs, a branch."""
        return 7 * spec.out_channels // 6 * spec.out_size**2

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        f = spec.out_channels // 6
        if spec.stride == 1:
            normal = cell_convs(NORMAL, spec.in_channels, spec.before, f, spec.size)
            return {f"normal.{name}": conv for name, conv in normal.items()}
        reduction = cell_convs(REDUCTION, spec.in_channels, spec.before, f, spec.size)
        normal = cell_convs(NORMAL, 4 * f, spec.in_channels, f, spec.out_size, halve=True)
        convs = {f"reduction.{name}": conv for name, conv in reduction.items()}
        return convs | {f"normal.{name}": conv for name, conv in normal.items()}

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__()
        f, options = spec.out_channels // 6, {"affine": affine, "eps": eps, "kernels": kernels}
        if spec.stride == 1:
            self.reduction = None
            self.normal = Cell(NORMAL, NORMAL_OUTPUT, spec.in_channels, spec.before, f, **options)
        else:
            self.reduction = Cell(REDUCTION, REDUCTION_OUTPUT, spec.in_channels, spec.before, f, **options)
            self.normal = Cell(NORMAL, NORMAL_OUTPUT, 4 * f, spec.in_channels, f, halve=True, **options)
        self.addition = nn.Identity()  # what importance looks at

    def forward(self, x: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The last two outputs; of the stem, which is alone, it makes both."""
        before, x = x if isinstance(x, tuple) else (x, x)
        if self.reduction is not None:
            before, x = x, self.reduction(x, before)
        return x, self.addition(self.normal(x, before))


class CellHead(PoolHead):
    """ReLU after the last cell, global average pool, linear."""

    op = "nasnet_head"

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        return super().forward(x[1].relu())
