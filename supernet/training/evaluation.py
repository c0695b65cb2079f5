"""Top-1 accuracy of a path."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from supernet.errors import UserError
from supernet.model import Network, Supernet
from supernet.space import Arch

Model = Supernet | Network
Batches = Iterable[tuple[Tensor, Tensor]]


@torch.inference_mode()
def evaluate(model: Model, batches: Batches, arch: Arch | None = None) -> float:
    """Top-1 accuracy in [0, 1] in eval mode."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    hits = n = 0
    try:
        for x, y in batches:
            hits += (model(x.to(device), arch).argmax(1) == y.to(device)).sum()
            n += len(y)
    finally:
        model.train(training)
    if n == 0:
        raise UserError("nothing to evaluate on: the split is empty")
    return int(hits) / n
