"""Full instantiation: every candidate of every layer runs, and the outputs are mixed (DARTS; SNAS with Gumbel noise).

The baseline of DSNAS: a step costs the sum of all candidates in time and memory, not one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from supernet import ops
from supernet.model import Supernet


def forward(model: Supernet, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Logits ``[B, classes]`` of the parent network with all candidates in every layer.

    Args:
        model: of a space with a gene per layer.
        x: ``[B, C, H, W]``.
        weights: ``weights[i]`` mixes the open choices of layer i.
    """
    x = model.stem(x.contiguous(memory_format=torch.channels_last))
    for candidates, weight in zip(model.layers, weights, strict=True):
        x = ops.depth_mix([candidate(x) for candidate in candidates.children()], weight)
    return model.head(x)


def softmax_weights(alpha: Sequence[Tensor]) -> list[Tensor]:
    """DARTS: the mixture is the distribution itself."""
    return [torch.softmax(a, 0) for a in alpha]


def concrete_weights(alpha: Sequence[Tensor], temperature: float, rng: np.random.Generator) -> list[Tensor]:
    """SNAS: a sample of the concrete distribution, one-hot as ``temperature`` goes to 0 (its eq. 5)."""
    noise = [torch.from_numpy(rng.gumbel(size=len(a))).to(a) for a in alpha]
    return [torch.softmax((torch.log_softmax(a, 0) + g) / temperature, 0) for a, g in zip(alpha, noise, strict=True)]
