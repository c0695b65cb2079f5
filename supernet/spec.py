"""What one layer is and what it costs: the one source of multiply-adds, parameters, activations and LUT keys. No torch.

A :class:`LayerSpec` says what a layer is. Its block class lists the convolutions that the layer consists of (``convs``)
and builds the module from that same list, so counts, latency keys and the network itself cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from supernet.size import Size

if TYPE_CHECKING:
    from torch import nn


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of ``divisor``, the next one up where that is more than 10 % below (MobileNet's code)."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


@dataclass(frozen=True)
class Conv:
    """One convolution (a linear layer is a 1×1 one on a 1×1 image) and what follows it."""

    in_channels: int
    out_channels: int
    kernel: int
    size: Size  # of the output; a number stands for a square
    stride: int = 1
    groups: int = 1
    act: str = "none"
    norm: bool = True
    bias: bool = False
    extra: int = 0  # parameters of anything else that belongs to it: a BN before it, a PReLU

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", Size.of(self.size))

    @property
    def flops(self) -> int:
        """Multiply-adds for one image."""
        return self.size.pixels * self.weights

    @property
    def weights(self) -> int:
        """Weights of the kernel."""
        return self.out_channels * (self.in_channels // self.groups) * self.kernel**2

    @property
    def params(self) -> int:
        """Weights, bias, the BN's scale and shift, and ``extra``."""
        return self.weights + self.out_channels * (self.bias + 2 * self.norm) + self.extra


class BuildOptions(TypedDict):
    """How layers are built: the arguments of ``LayerSpec.build``, and of a block besides its spec."""

    affine: bool  # BN learns a scale and a shift
    eps: float  # of every BN
    kernels: str  # fused: our operators; eager: plain PyTorch


class Block:
    """A kind of layer: subclass it together with ``torch.nn.Module``.

    >>> class Pointwise(Block, nn.Module):
    ...     op = "pointwise"
    ...     @staticmethod
    ...     def convs(spec):
    ...         return {"conv": Conv(spec.in_channels, spec.out_channels, 1, spec.size, act=spec.act)}
    ...     def __init__(self, spec, affine, eps, kernels):
    ...         super().__init__()
    ...         self.conv = ConvBN(self.convs(spec)["conv"], affine, eps, kernels)
    ...     def forward(self, x):
    ...         return self.conv(x)

    A module maps ``[B, in_channels, *size]`` to ``[B, out_channels, *out_size]``.

    Attributes:
        op: its name in a ``Choice`` and in latency keys.
        runs: whether it computes anything; an Identity does not, and is no layer of the network.
        adds: whether its output is its input plus what it computes, so that the latter can be dropped in training.
        added: the submodule that gives what is added, of a block whose output is not that sum itself.
    """

    op: ClassVar[str]
    runs: ClassVar[bool] = True
    adds: bool = False
    added: ClassVar[str] = ""

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        """The convolutions by the name of the submodule that runs them; empty where there are none."""
        return {}

    @staticmethod
    def kept(spec: LayerSpec, conv: str) -> int:
        """Values held in memory, for one image, while the convolution named ``conv`` runs: a skip, another branch."""
        return 0

    @staticmethod
    def refuses(spec: LayerSpec) -> str | None:
        """Why such a layer cannot be built, in words; None if it can."""
        return None


@dataclass(frozen=True)
class LayerSpec:
    """One layer as it is built, counted and timed."""

    block: type[Block]
    in_channels: int
    out_channels: int
    size: Size  # of its input; a number stands for a square
    stride: int = 1
    kernel: int = 0
    expand: int = 0
    act: str = "relu"
    squeeze_excite: bool = False
    classes: int = 0  # head only
    bias: bool = False  # of a head's classifier or a stem's convolution
    dropout: float = 0.0  # head only
    before: int = 0  # NASNet cells only: channels of the second input, the output of the cell before the last
    middle: int = 0  # elastic spaces only: channels between the first and the last convolution

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", Size.of(self.size))

    @property
    def op(self) -> str:
        """The name of its block."""
        return self.block.op

    @cached_property
    def key(self) -> str:
        """The name of this layer in a latency table: everything that its latency can depend on."""
        parts = [self.op]
        parts += [f"k{self.kernel}"] if self.kernel else []
        parts += [f"e{self.expand}"] if self.expand else []
        parts += [f"s{self.stride}", self.act]
        parts += ["se"] if self.squeeze_excite else []
        parts += [f"b{self.before}"] if self.before else []
        parts += [f"m{self.middle}"] if self.middle else []
        shape = f"{self.in_channels}x{self.size.height}x{self.size.width}->{self.out_channels}"
        return "_".join(parts) + f" {shape}" + (f"->{self.classes}" if self.classes else "")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of its input."""
        return self.in_channels, *self.size

    @property
    def out_size(self) -> Size:
        return self.size.strided(self.stride)

    @cached_property
    def convs(self) -> dict[str, Conv]:
        """The convolutions by the name of the submodule that runs them; empty where there are none."""
        return self.block.convs(self)

    @property
    def runs(self) -> bool:
        """Whether it computes anything; an Identity does not, and is no layer of the network."""
        return self.block.runs

    @property
    def beside(self) -> bool:
        """Whether another layer of its stride runs beside it, so that only one of them makes the image smaller."""
        return False

    @property
    def flops(self) -> int:
        """Multiply-adds of convolutions and linear layers for one image, as the papers count."""
        return sum(conv.flops for conv in self.convs.values())

    @property
    def params(self) -> int:
        """Trainable parameters of the stand-alone layer, BN's affine ones included."""
        return sum(conv.params for conv in self.convs.values())

    @property
    def activations(self) -> int:
        """Values in memory at the peak, for one image: input and output of one convolution (or of the layer if it
        has none), plus what a skip or another branch holds meanwhile. BN and activation run in place.
        """
        whole = self.in_channels * self.size.pixels
        peak = 0 if self.convs else whole + self.out_channels * self.out_size.pixels
        for name, conv in self.convs.items():
            source = conv.in_channels * (self.size if conv.stride > 1 else conv.size).pixels
            peak = max(peak, source + conv.out_channels * conv.size.pixels + self.block.kept(self, name))
        return peak

    def build(self, affine: bool = True, eps: float = 1e-5, kernels: str = "fused") -> nn.Module:
        """The layer as a module. ``kernels``: ``fused`` runs our operators, ``eager`` plain PyTorch."""
        module: Any = self.block  # also a torch.nn.Module
        return module(self, affine=affine, eps=eps, kernels=kernels)

    def measured(self, kernels: str) -> nn.Module:
        """The module whose latency is that of the layer, for an input of ``input_shape``."""
        return self.build(kernels=kernels)


Price = Callable[[LayerSpec], float]
