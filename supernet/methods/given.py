"""How the supernet of a given network begins: with its weights, important channels first, and it as the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from supernet.data import stored
from supernet.data.images import Batches
from supernet.data.sets import TrainVal
from supernet.families.given import family, sorting, verify, weights
from supernet.families.given.layout import of_network
from supernet.model import Supernet
from supernet.runs import RunFolder
from supernet.training import distributed
from supernet.training.precision import whole

Importance = Literal["l1", "taylor", "none"]
IMAGES = 1024  # training images that Taylor's importance is taken from


def begin(
    model: Supernet, source: str, importance: Importance, folder: Path, data: TrainVal, seed: int
) -> tuple[str, ...]:
    """Give a supernet the weights of its network and sort its channels.

    The weights are kept in ``folder``: a run that continues does not need their source any more.

    Args:
        source: as ``weights.read`` takes it.
        importance: of channels: L1 of the weights, Taylor's on training images, or leave their order.

    Returns:
        The layers that are new for these images.

    Raises:
        UserError: as ``verify.require`` and ``weights.read``.
    """
    layout = of_network(model.space)
    kept = RunFolder(folder).given_path
    if not kept.exists():
        verify.require(model.space)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        read = weights.read(layout.network, str(kept) if kept.exists() else source)
    distributed.wait()
    if distributed.rank() == 0 and not kept.exists():
        weights.save(kept, read.state)
    family.load(model.shared, read.state)
    if importance == "l1":
        sorting.sort(model.shared, layout)
    elif importance == "taylor":
        _gradients(model, data)
        sorting.sort(model.shared, layout, sorting.taylor)
        model.zero_grad()
    return read.new


def teacher(model: Supernet) -> nn.Module:
    """The network with the weights that the supernet has now, in eval mode."""
    return model.extract(model.space.whole, model.options["kernels"]).eval().requires_grad_(False)


def _gradients(model: Supernet, data: TrainVal) -> None:
    """Those of the loss on some training images, the same on each rank."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    count, arch = min(IMAGES, len(data.train)), model.space.whole
    for x, y in Batches(stored.in_memory(data.train.subset(count, seed=0)), 64):
        F.cross_entropy(whole(model(x.to(device), arch)), y.to(device), reduction="sum").backward()
    model.train(training)
