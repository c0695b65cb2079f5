"""What surrounds a network in a file that takes pixels and gives probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from supernet.data.preparation import Preparation


class FromPixels(nn.Module):
    """Pixels uint8 ``[B, height, width, channels]`` to probabilities ``[B, classes]``.

    Args:
        network: images ``[B, channels, height, width]``, normalised, to logits.
        prepared: what normalises them. Resizing and cropping come before, as they take files of any size.
    """

    network: Any
    mean: Tensor
    std: Tensor

    def __init__(self, network: Callable[[Tensor], Tensor], prepared: Preparation):
        super().__init__()
        self.network = network
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(prepared, name)).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2).float() / 255
        return self.network((x - self.mean) / self.std).softmax(1)
