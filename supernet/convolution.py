"""Convolutions of plain modules, without the faults that PyTorch's have on the CPU: docs/known_faults.md."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW = 16  # input channels: as many as a vector has on any CPU


class Conv2d(nn.Conv2d):
    """PyTorch's, run by `conv2d` below."""

    def forward(self, x: Tensor) -> Tensor:
        stride, padding = self.stride[0], self.padding[0]
        plain = self.stride == (stride, stride) and self.padding == (padding, padding) and self.dilation == (1, 1)
        if not plain or self.padding_mode != "zeros" or isinstance(padding, str):
            return super().forward(x)
        return conv2d(x, self.weight, self.bias, stride=stride, padding=padding, groups=self.groups)


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor:
    """PyTorch's convolution, in float32 where bfloat16 on the CPU is wrong, and of what a 1×1 kernel reads alone.

    The first is where a tap of the kernel meets no pixel in any output, as on images smaller than the kernel; the
    output is bfloat16 all the same. The second is where a 1×1 kernel of stride 2 reads few channels, whose gradient
    writes beyond its memory. oneDNN's faults, and how the compiled operators avoid them: docs/known_faults.md.

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
    if x.device.type == "cpu" and stride > 1 and not padding and weight.shape[1] < FEW and weight.shape[2:] == (1, 1):
        x, stride = x[:, :, ::stride, ::stride].contiguous(memory_format=torch.channels_last), 1
    return F.conv2d(x, weight, bias, stride, padding, 1, groups)


def _type(x: Tensor) -> torch.dtype:
    """What a convolution of x computes in."""
    autocast = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64
    return torch.get_autocast_dtype("cpu") if autocast else x.dtype


def _taps_meet_pixels(size: int, kernel: int, stride: int, padding: int) -> bool:
    """Whether each of the taps along an axis meets a pixel."""
    starts = range(-padding, size + padding - kernel + 1, stride)
    return all(any(0 <= start + tap < size for start in starts) for tap in range(kernel))
