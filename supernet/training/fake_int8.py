"""Fake quantisation (Jacob et al. 2018): floats rounded where a network on 8-bit values has no more than those.

Inputs of convolutions and linear layers take 256 values from their least to their greatest in a batch, weights 255 in
each output channel; gradients pass the rounding as they are. BN is not folded in: it scales a whole channel, so that
its weights round alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

LEAST = 1e-12  # of a scale: all may be 0
_exact = ContextVar("exact", default=False)


class FakeInt8(TorchFunctionMode):
    """A context in which plain PyTorch computes so; our compiled operators do not."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in (F.conv2d, F.linear) and not _exact.get():
            x, weight, *others = args
            args = (activations(x), weights(weight), *others)
        return func(*args, **(kwargs or {}))


@contextmanager
def exact() -> Iterator[None]:
    """Floats as they are, within ``FakeInt8`` too: for a teacher."""
    before = _exact.set(True)
    try:
        yield
    finally:
        _exact.reset(before)


def faking(wanted: bool) -> AbstractContextManager:
    """``FakeInt8`` where it is wanted."""
    return FakeInt8() if wanted else nullcontext()


def activations(x: Tensor) -> Tensor:
    """Rounded to 256 values from the least to the greatest, 0 among them."""
    low, high = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
    scale = ((high - low) / 255).clamp(min=LEAST)
    return torch.fake_quantize_per_tensor_affine(x, scale, (-low / scale).round().to(torch.int32), 0, 255)


def weights(weight: Tensor) -> Tensor:
    """``[O, …]`` rounded to whole steps from -127 to 127, as long as each output channel needs them."""
    scale = (weight.detach().flatten(1).abs().amax(1) / 127).clamp(min=LEAST)
    return torch.fake_quantize_per_channel_affine(
        weight, scale, torch.zeros_like(scale, dtype=torch.int32), 0, -127, 127
    )
