"""Full instantiation: every candidate of every layer runs, and the outputs are mixed (DARTS; SNAS with Gumbel noise).

The baseline of DSNAS: a step costs the sum of all candidates in time and memory, not one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from supernet import ops
from supernet.methods.candidates import along, deciding, operations
from supernet.model import Supernet


def forward(model: Supernet, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Logits ``[B, classes]`` of the parent network with all candidates in every layer.

    Args:
        model: of a space with a gene for each layer, or for each edge of its cells.
        x: ``[B, C, H, W]``.
        weights: ``weights[i]`` mixes the open choices of gene i.
    """
    candidates = operations(model)

    def mixed(place: int, gene: int, _: nn.Module, x: Tensor) -> Tensor:
        return ops.depth_mix([candidate(x) for candidate in candidates[place]], weights[gene])

    return along(model.path(tuple(open_[0] for open_ in model.space.allowed)), deciding(model), x, mixed)


def softmax_weights(alpha: Sequence[Tensor]) -> list[Tensor]:
    """DARTS: the mixture is the distribution itself."""
    return [torch.softmax(a, 0) for a in alpha]


def concrete_weights(alpha: Sequence[Tensor], temperature: float, rng: np.random.Generator) -> list[Tensor]:
    """SNAS: a sample of the concrete distribution, one-hot as ``temperature`` goes to 0 (its eq. 5)."""
    noise = [torch.from_numpy(rng.gumbel(size=len(a))).to(a) for a in alpha]
    return [torch.softmax((torch.log_softmax(a, 0) + g) / temperature, 0) for a, g in zip(alpha, noise, strict=True)]
