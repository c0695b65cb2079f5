"""Convolutions of plain modules, right in bfloat16 on the CPU as well."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Conv2d(nn.Conv2d):
    """PyTorch's with a square kernel, run by `conv2d` below."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        groups: int = 1,
        bias: bool = True,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=bias)
        self.window = {"stride": stride, "padding": padding, "groups": groups}

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same by another weight and bias."""
        return conv2d(x, weight, bias, **self.window)


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor:
    """PyTorch's convolution, in float32 where bfloat16 on the CPU is wrong.

    That is where a tap of the kernel meets no pixel in any output, as on images smaller than the kernel; the output is
    bfloat16 all the same. oneDNN's fault, and how the compiled operators avoid it: docs/known_faults.md.

    Args:
        x: ``[N, C, H, W]``.
        weight: ``[O, C / groups, k, k]``.
    """
    if x.device.type == "cpu" and _type(x) == torch.bfloat16:
        kernel = weight.shape[2]
        if not all(_taps_meet_pixels(size, kernel, stride, padding) for size in x.shape[2:]):
            with torch.autocast("cpu", enabled=False):
                bias = None if bias is None else bias.float()
                y = F.conv2d(x.float(), weight.float(), bias, stride, padding, 1, groups)
            return y.to(torch.bfloat16)
    return F.conv2d(x, weight, bias, stride, padding, 1, groups)


def _type(x: Tensor) -> torch.dtype:
    """What a convolution of x computes in."""
    autocast = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64
    return torch.get_autocast_dtype("cpu") if autocast else x.dtype


def _taps_meet_pixels(size: int, kernel: int, stride: int, padding: int) -> bool:
    """Whether each of the taps along an axis meets a pixel."""
    starts = range(-padding, size + padding - kernel + 1, stride)
    return all(any(0 <= start + tap < size for start in starts) for tap in range(kernel))
