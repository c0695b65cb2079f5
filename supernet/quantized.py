"""Blocks on 8-bit values: the compiled operators for inference, and the parameters that they take.

Values and scales are those of ONNX's quantised convolutions (QLinearConv; what static quantisation by onnxruntime
writes): ``real = scale * (q - zero)``; activations uint8 or int8 per tensor, weights int8 per output channel with zero
point 0, bias int32. Every form of the operators gives the same bits; csrc/ops/int8_blocks.h says how they round, and
that sums beyond 32 bits wrap around, which no bias of `QuantisedConv.of` makes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from supernet import ops  # noqa: F401 - registers the operators
from supernet.errors import UserError

_ops = torch.ops.supernet
# The products that the operators add up stay below 2^30: with this bias the sum fits into 32 bits.
_MOST_BIAS = 2**30


@dataclass(frozen=True)
class Quantisation:
    """The scale of a tensor's values and the value that stands for 0, of ``dtype`` uint8 or int8.

    Raises:
        UserError: another type, a zero that is no value of it, a scale that is not positive and finite.
    """

    scale: float
    zero: int
    dtype: torch.dtype = torch.uint8

    def __post_init__(self) -> None:
        if self.dtype not in (torch.uint8, torch.int8):
            raise UserError(f"a quantisation should have values of uint8 or int8, got {self.dtype}")
        ends = torch.iinfo(self.dtype)
        if not (ends.min <= self.zero <= ends.max and self.zero == int(self.zero)):
            raise UserError(f"zero should be a value of {self.dtype}, from {ends.min} to {ends.max}, got {self.zero}")
        if not 0 < self.scale < math.inf:
            raise UserError(f"a scale should be positive and finite, got {self.scale}")

    def quantise(self, x: Tensor) -> Tensor:
        """The nearest values; halves to even, out of range to the ends."""
        low, high = torch.iinfo(self.dtype).min, torch.iinfo(self.dtype).max
        return (x / self.scale).round().add(self.zero).clamp(low, high).to(self.dtype)

    def dequantise(self, q: Tensor) -> Tensor:
        """The real values, float32."""
        return (q.float() - self.zero) * self.scale


@dataclass(frozen=True)
class QuantisedConv:
    """A convolution from values of one quantisation to those of another, with an activation behind it.

    ``weight`` int8 ``[out, in / groups, k, k]``; ``bias`` int32 ``[out]``, in units of the input's scale times the
    weight's; ``scale`` float32 ``[out]``, the input's scale times the weight's by the output's; ``in_zero`` and
    ``zero``, the zero points of input and output; ``table`` ``[256]`` or None: what each output value, from the least
    on, becomes.
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor
    in_zero: int
    zero: int
    table: Tensor | None = None

    @classmethod
    def of(
        cls,
        weight: Tensor,
        bias: Tensor,
        into: Quantisation,
        out: Quantisation,
        act: Callable[[Tensor], Tensor] | None = None,
        activated: Quantisation | None = None,
    ) -> "QuantisedConv":
        """Quantise a convolution whose batch norm is folded in.

        A channel's weights get 127 steps to either side; fewer where the bias, in these steps, would not fit into 32
        bits with room for the sum.

        Args:
            weight, bias: floats ``[out, in / groups, k, k]`` and ``[out]``.
            into, out: of its input, and of its output before the activation.
            act: elementwise, or None. Where ``out`` ends where the activation does, as with ReLU and ReLU6 of a
                quantisation whose zero is the least value, None serves as well and is faster.
            activated: of the activated output; ``out`` if None.

        Raises:
            UserError: wrong shapes, weights or biases that are not finite, quantisations of several types.
        """
        if weight.dim() != 4 or bias.shape != weight.shape[:1]:
            raise UserError(
                "weight should be [out, in / groups, k, k] and bias [out], "
                f"got {list(weight.shape)} and {list(bias.shape)}"
            )
        if not (weight.isfinite().all() and bias.isfinite().all()):
            raise UserError("weight and bias should be finite, got infinities or NaN")
        if types := {str(each.dtype) for each in (out, activated) if each and each.dtype != into.dtype}:
            raise UserError(f"into, out and activated should be of one type, got {into.dtype} and {types.pop()}")
        weight, bias = weight.double(), bias.double()
        steps = torch.maximum(weight.abs().amax((1, 2, 3)) / 127, bias.abs() / (into.scale * _MOST_BIAS))
        steps = steps.where(steps > 0, 1)  # all is 0
        sums = steps * into.scale
        table = None
        if act is not None:
            low = torch.iinfo(out.dtype).min
            table = (activated or out).quantise(act(out.dequantise(torch.arange(low, low + 256))))
        return cls(
            (weight / steps[:, None, None, None]).round().to(torch.int8),
            (bias / sums).round().to(torch.int32),
            (sums / out.scale).to(torch.float32),
            into.zero,
            out.zero,
            table,
        )

    @property
    def arguments(self) -> tuple[Tensor | int | None, ...]:
        """As the operators take them."""
        return self.weight, self.bias, self.scale, self.in_zero, self.zero, self.table


@dataclass(frozen=True)
class QuantisedSum:
    """The sum of a block's input and its projection: the scales of both by that of the sum, and the sum's zero point.

    The factors count with 16 significant bits.
    """

    x_factor: float
    pw_factor: float
    zero: int


def dw_separable(x: Tensor, dw: QuantisedConv, pw: QuantisedConv, *, stride: int = 1) -> Tensor:
    """Depthwise k x k, then pointwise 1 x 1, each with its requantisation and activation.

    Args:
        x: ``[N, C, H, W]``, uint8 or int8.
        dw: weight ``[C, 1, k, k]``, k 1, 3, 5 or 7; padding is k // 2.
        pw: weight ``[O, C, 1, 1]``.

    Returns:
        ``[N, O, H', W']``, of x's type, channels_last.

    Raises:
        RuntimeError: wrong shapes, types or devices; over 32768 channels.
    """
    return _ops.dw_separable_int8(x, *dw.arguments, *pw.arguments, stride)


def inverted_bottleneck(
    x: Tensor,
    expand: QuantisedConv,
    dw: QuantisedConv,
    pw: QuantisedConv,
    *,
    residual: QuantisedSum | None = None,
    stride: int = 1,
) -> Tensor:
    """Pointwise 1 x 1, then `dw_separable`; the projection has no activation.

    Args:
        x: ``[N, C, H, W]``, uint8 or int8.
        expand: weight ``[M, C, 1, 1]``; dw and pw: as in `dw_separable`, from M channels.
        residual: adds x, which needs stride 1 and as many outputs as inputs.

    Returns:
        ``[N, O, H', W']``, of x's type, channels_last.

    Raises:
        RuntimeError: wrong shapes, types or devices; over 32768 channels; a table behind the projection.
    """
    *projection, table = pw.arguments
    if table is not None:
        raise RuntimeError("inverted_bottleneck_int8: the projection should have no activation, got a table")
    added = (False, 0.0, 0.0, 0) if residual is None else (True, residual.x_factor, residual.pw_factor, residual.zero)
    return _ops.inverted_bottleneck_int8(x, *expand.arguments, *dw.arguments, *projection, *added, stride)
