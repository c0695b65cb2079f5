"""What the cells of a graph consist of: operations, and the places in a cell where they stand.

Operations are those of DARTS. A place takes a state, what the next cell needs and the nodes so far, to the next state.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.convolution import Conv2d
from supernet.families.nasnet import FactorizedReduction, SeparableTwice, Squeeze
from supernet.modules import ConvBN, PoolHead, odd_kernel
from supernet.norm import BatchNorm
from supernet.size import PIXEL
from supernet.spec import Block, BuildOptions, Conv, LayerSpec

if TYPE_CHECKING:
    from typing_extensions import Unpack

State = tuple[Tensor, ...]


class Pool(Block, nn.Module):
    """k×k pooling, BN without scale and shift."""

    make: Callable[..., nn.Module]

    @staticmethod
    def refuses(spec: LayerSpec) -> str | None:
        return odd_kernel(spec)

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__()
        self.pool = self.make(spec.kernel, spec.stride, spec.kernel // 2)
        self.bn = BatchNorm(spec.out_channels, eps=eps, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.pool(x))


class MaxPoolBN(Pool):
    op, make = "max_pool_bn", nn.MaxPool2d


class AvgPoolBN(Pool):
    """The mean of the pixels there are: none of the padding."""

    op, make = "avg_pool_bn", staticmethod(partial(nn.AvgPool2d, count_include_pad=False))


class Separable2(Block, SeparableTwice):
    """ReLU, depthwise, pointwise, BN, twice."""

    op = "sep_twice"
    refuses = staticmethod(odd_kernel)

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:  # type: ignore[override]  # of a spec, as all blocks
        return SeparableTwice.convs(spec.out_channels, spec.kernel, spec.out_size, spec.stride)

    def __init__(self, spec: LayerSpec, **build: Unpack[BuildOptions]):
        super().__init__(spec.out_channels, spec.kernel, spec.stride, **build)


class Dilated(Block, nn.Module):
    """ReLU, depthwise of dilation 2, pointwise, BN."""

    op = "dilated"
    refuses = staticmethod(odd_kernel)

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        c, size = spec.out_channels, spec.out_size
        depthwise = Conv(c, c, spec.kernel, size, spec.stride, groups=c, norm=False)
        return {"depthwise": depthwise, "pointwise": Conv(c, c, 1, size)}

    def __init__(self, spec: LayerSpec, **build: Unpack[BuildOptions]):
        super().__init__()
        c, k = spec.out_channels, spec.kernel
        self.depthwise = Conv2d(c, c, k, spec.stride, k - 1, 2, groups=c, bias=False)
        self.pointwise = ConvBN(Conv(c, c, 1, PIXEL), **build)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(F.relu(x)))


class Halved(Block, FactorizedReduction):
    """ReLU, two 1×1 convolutions of stride 2 to half of the channels each, BN."""

    op = "halved"

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        half = Conv(spec.in_channels, spec.out_channels // 2, 1, spec.out_size, 2)
        return {"even": half, "odd": half}

    @staticmethod
    def refuses(spec: LayerSpec) -> str | None:
        return f"{spec.out_channels} channels: expected an even number" if spec.out_channels % 2 else None

    def __init__(self, spec: LayerSpec, **build: Unpack[BuildOptions]):
        super().__init__(spec.in_channels, spec.out_channels, **build)


class Squeezed(Block, Squeeze):
    """ReLU, 1×1 convolution, BN."""

    op = "squeezed"

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        return {"conv": Conv(spec.in_channels, spec.out_channels, 1, spec.out_size)}

    def __init__(self, spec: LayerSpec, **build: Unpack[BuildOptions]):
        super().__init__(spec.in_channels, spec.out_channels, **build)


class Concat(Block, nn.Module):
    """The nodes of a cell in a row; for latencies, one of them several times."""

    op = "concat"

    def __init__(self, spec: LayerSpec, **_: object):
        super().__init__()
        self.count = spec.out_channels // spec.in_channels

    def forward(self, *nodes: Tensor) -> Tensor:
        return torch.cat(nodes if len(nodes) > 1 else nodes * self.count, 1)


class GraphHead(PoolHead):
    """Global average pool of the last cell's output, linear."""

    op = "graph_head"

    def forward(self, x: Tensor | State) -> Tensor:
        """``[B, classes]``."""
        return super().forward(x[-1] if isinstance(x, tuple) else x)


class Part(nn.Module):
    """An operation of a cell, from one state to the next: ``write(state, op(read(state)))``."""

    def __init__(self, op: nn.Module):
        super().__init__()
        self.op = op

    def read(self, state: State) -> Tensor:
        raise NotImplementedError

    def write(self, state: State, y: Tensor) -> State:
        raise NotImplementedError

    def forward(self, state: Any) -> State:
        return self.write(state, self.op(self.read(state)))


class First(Part):
    """Node 0, of the output before the last one; after the stem there is one output, which counts as both."""

    def read(self, state: State | Tensor) -> Tensor:
        return state[0] if isinstance(state, tuple) else state

    def write(self, state: State | Tensor, y: Tensor) -> State:
        return (state[1] if isinstance(state, tuple) else state), y


class Second(Part):
    """Node 1, of the last output, which the next cell reads, too."""

    def read(self, state: State) -> Tensor:
        return state[0]

    def write(self, state: State, y: Tensor) -> State:
        return (*state, y)


class Edge(Part):
    """O_ij of node ``source``, added to the others of node ``target``, which is the last one begun or the next."""

    def __init__(self, op: nn.Module, source: int, target: int):
        super().__init__(op)
        self.source, self.target = source, target

    def read(self, state: State) -> Tensor:
        return state[1 + self.source]

    def write(self, state: State, y: Tensor) -> State:
        *others, last = state
        return (*others, last, y) if len(others) == self.target else (*others, last + y)


class Output(nn.Module):
    """The end of a cell: the last cell's output and its own."""

    def __init__(self, op: nn.Module):
        super().__init__()
        self.op = op

    def forward(self, state: State) -> State:
        last, _, _, *nodes = state
        return last, self.op(*nodes)
