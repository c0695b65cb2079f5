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
BATCH = 512  # images of a forward pass
Batches = Iterable[tuple[Tensor, Tensor]]


def evaluate(model: Model, batches: Batches, arch: Arch | None = None) -> float:
    """Top-1 accuracy in [0, 1] in eval mode."""
    hits, n = _hits(model, batches, arch)
    if n == 0:
        raise UserError("nothing to evaluate on: the split is empty")
    return hits / n


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


def validate(model: Model, images: ImageSet, arch: Arch | None = None) -> float:
    """Top-1 accuracy in [0, 1] on all images, in eval mode; under torchrun every rank computes its share of them."""
    world = distributed.world()
    if world == 1:
        return evaluate(model, images.plain_batches(BATCH), arch)
    rank = distributed.rank()
    mine = images.batches(BATCH, seed=0, epoch=0, augment=False, drop_last=False, rank=rank, world=world)
    hits, n = distributed.total(*_hits(model, mine, arch), device=next(model.parameters()).device)
    return hits / n
