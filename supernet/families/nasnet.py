"""The cells of NASNet-A, as modules of a stage.

Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition", Figure 4 and Appendix A.4. A cell
reads the outputs of the two cells before it, so cells hand on a pair: the last output and their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.convolution import Conv2d
from supernet.modules import ConvBN, PoolHead
from supernet.norm import BatchNorm
from supernet.size import PIXEL, Size
from supernet.spec import Block, BuildOptions, Conv, LayerSpec

if TYPE_CHECKING:
    from typing_extensions import Unpack

# A block adds two operations, each of a hidden state: 0 the last output, 1 the one before, 2 … the blocks so far.
Operation = tuple[str, int]
Blocks = tuple[tuple[Operation, Operation], ...]
NORMAL: Blocks = (
    (("sep5", 0), ("sep3", 1)),
    (("sep5", 1), ("sep3", 1)),
    (("avg3", 0), ("none", 1)),
    (("avg3", 1), ("avg3", 1)),
    (("sep3", 0), ("none", 0)),
)
REDUCTION: Blocks = (
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
    """The cells of a stage, completed with the channels of their second inputs.

    The two inputs of the first cell have the same channels. The second cell's second input is what the normal cell
    before it read: at stride 2 the four parts of the reduction's output, else the stem's output. Each later cell's
    is the output of the cell before the last one.
    """
    first, *rest = modules
    entered = 4 * first.out_channels // 6 if first.stride == 2 else first.in_channels
    befores = [first.in_channels, entered, *[spec.out_channels for spec in rest]]
    return [replace(spec, before=before) for spec, before in zip(modules, befores, strict=False)]


class SeparableTwice(nn.Module):
    """ReLU, depthwise k×k, pointwise, BN, and the same again; the first of the two has the stride."""

    @staticmethod
    def convs(channels: int, kernel: int, size: Size, stride: int) -> dict[str, Conv]:
        """``size`` of the output."""
        convs = {}
        for i, s in ((1, stride), (2, 1)):
            convs[f"depthwise{i}"] = Conv(channels, channels, kernel, size, s, groups=channels, norm=False)
            convs[f"pointwise{i}"] = Conv(channels, channels, 1, size)
        return convs

    def __init__(self, channels: int, kernel: int, stride: int, **build: Unpack[BuildOptions]):
        super().__init__()
        self.depthwise1 = Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)
        self.pointwise1 = ConvBN(Conv(channels, channels, 1, PIXEL), **build)
        self.depthwise2 = Conv2d(channels, channels, kernel, 1, kernel // 2, groups=channels, bias=False)
        self.pointwise2 = ConvBN(Conv(channels, channels, 1, PIXEL), **build)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pointwise1(self.depthwise1(F.relu(x)))
        return self.pointwise2(self.depthwise2(F.relu(x)))


class Squeeze(nn.Module):
    """ReLU, 1×1 convolution, BN."""

    def __init__(self, cin: int, channels: int, **build: Unpack[BuildOptions]):
        super().__init__()
        self.conv = ConvBN(Conv(cin, channels, 1, PIXEL), **build)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(x))


class FactorizedReduction(nn.Module):
    """ReLU; two 1×1 convolutions of stride 2, each to half of the channels, the second shifted by one pixel; BN."""

    def __init__(self, cin: int, channels: int, affine: bool, eps: float, **_: object):
        super().__init__()
        self.even = Conv2d(cin, channels // 2, 1, 2, bias=False)
        self.odd = Conv2d(cin, channels // 2, 1, 2, bias=False)
        self.bn = BatchNorm(channels, eps=eps, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return self.bn(torch.cat((self.even(x), self.odd(F.pad(x, (-1, 1, -1, 1)))), 1))


class Cell(nn.Module):
    """Five blocks of two operations each.

    Args:
        blocks, output: NORMAL and NORMAL_OUTPUT, or those of the reduction, whose operations on inputs have stride 2.
        cin, before: channels of the last output and of the one before it.
        channels: F, those of every hidden state.
        halve: the output before the last one is twice as large.
    """

    def __init__(
        self,
        blocks: Blocks,
        output: tuple[int, ...],
        cin: int,
        before: int,
        channels: int,
        halve: bool = False,
        **build: Unpack[BuildOptions],
    ):
        super().__init__()
        self.blocks, self.output = blocks, output
        self.squeeze = Squeeze(cin, channels, **build)
        self.squeeze_before = (FactorizedReduction if halve else Squeeze)(before, channels, **build)
        self.strides = (2, 2) if blocks is REDUCTION else (1, 1)
        self.separable = nn.ModuleDict(
            {name: SeparableTwice(channels, kernel, stride, **build) for name, kernel, stride in separables(blocks)}
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


def separables(blocks: Blocks) -> list[tuple[str, int, int]]:
    """Name, kernel and stride of each separable convolution of a cell."""
    return [
        (f"block{i}_{side}", int(op[3:]), 2 if blocks is REDUCTION and j < 2 else 1)
        for i, block in enumerate(blocks)
        for (op, j), side in zip(block, SIDES, strict=True)
        if op.startswith("sep")
    ]


def cell_convs(
    blocks: Blocks, cin: int, before: int, channels: int, size: Size, halve: bool = False
) -> dict[str, Conv]:
    """The convolutions of a ``Cell`` whose inputs have ``size``; where they differ, that is the last output's size."""
    convs = {"squeeze.conv": Conv(cin, channels, 1, size)}
    if halve:  # the parameters of its BN are counted in the two halves
        halves = ("even", "odd")
        convs |= {f"squeeze_before.{half}": Conv(before, channels // 2, 1, size, 2) for half in halves}
    else:
        convs["squeeze_before.conv"] = Conv(before, channels, 1, size)
    out = size.strided(2) if blocks is REDUCTION else size
    for name, kernel, stride in separables(blocks):
        both = SeparableTwice.convs(channels, kernel, out, stride)
        convs |= {f"separable.{name}.{part}": conv for part, conv in both.items()}
    return convs


class NASNetModule(Block, nn.Module):
    """A normal cell; at stride 2 a reduction cell before it."""

    op = "nasnet"

    @staticmethod
    def kept(spec: LayerSpec, conv: str) -> int:
        """At the last addition: four of the six parts of the output, both inputs and a branch."""
        return 7 * spec.out_channels // 6 * spec.out_size.pixels

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
        f, build = spec.out_channels // 6, BuildOptions(affine=affine, eps=eps, kernels=kernels)
        if spec.stride == 1:
            self.reduction = None
            self.normal = Cell(NORMAL, NORMAL_OUTPUT, spec.in_channels, spec.before, f, **build)
        else:
            self.reduction = Cell(REDUCTION, REDUCTION_OUTPUT, spec.in_channels, spec.before, f, **build)
            self.normal = Cell(NORMAL, NORMAL_OUTPUT, 4 * f, spec.in_channels, f, halve=True, **build)
        self.addition = nn.Identity()  # what importance looks at

    def forward(self, x: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """From the last two outputs to the next pair; after the stem there is one output, which counts as both."""
        before, last = x if isinstance(x, tuple) else (x, x)
        if self.reduction is not None:
            before, last = last, self.reduction(last, before)
        return last, self.addition(self.normal(last, before))


class CellHead(PoolHead):
    """ReLU after the last cell, global average pool, linear."""

    op = "nasnet_head"

    def forward(self, x: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """``[B, classes]`` from the cells' last two outputs, of which only the last one counts."""
        last = x[1] if isinstance(x, tuple) else x
        return super().forward(last.relu())
