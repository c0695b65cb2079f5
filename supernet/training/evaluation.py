"""Top-1 accuracy of a path."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from supernet.data.images import ImageSet
from supernet.errors import UserError
from supernet.model import Network, Supernet
from supernet.space import Arch
from supernet.training import distributed

Model = Supernet | Network
BATCH = 512  # images of a forward pass, where memory allows
Batches = Iterable[tuple[Tensor, Tensor]]


def evaluate(model: Model, batches: Batches, arch: Arch | None = None) -> float:
    """Top-1 accuracy in [0, 1] in eval mode."""
    return _accuracy(*_hits(model, batches, arch))


@torch.inference_mode()
def _hits(model: Model, batches: Batches, arch: Arch | None) -> tuple[int, int]:
    """How many images were classified rightly, of how many."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    hits = n = 0
    try:
        for x, y in batches:
            hits += (model(x.to(device), arch).argmax(1) == y.to(device)).sum()
            n += len(y)
    finally:
        model.train(training)
    return int(hits), n


def validate(model: Model, images: ImageSet, arch: Arch | None = None, batch: int = BATCH) -> float:
    """Top-1 accuracy in [0, 1] on all images, in eval mode; under torchrun every rank computes its share of them.

    Args:
        batch: the most images at once; more than ``BATCH`` are not taken.
    """
    mine = images.plain_batches(min(batch, BATCH), distributed.rank(), distributed.world())
    return _accuracy(*distributed.total(*_hits(model, mine, arch), device=next(model.parameters()).device))


def _accuracy(hits: float, n: float) -> float:
    if n == 0:
        raise UserError("nothing to evaluate on: the split is empty")
    return hits / n
