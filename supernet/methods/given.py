"""How the supernet of a given network begins: with its weights, important channels first, and it as the teacher."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from supernet.data import stored
from supernet.data.images import Batches, ImageSet
from supernet.data.sets import TrainVal
from supernet.families.given import family, sorting, source, verify, weights
from supernet.families.given.layout import of_network
from supernet.model import Supernet
from supernet.runs import RunFolder
from supernet.training import distributed
from supernet.training.precision import whole

Importance = Literal["l1", "taylor", "none"]
IMAGES = 1024  # training images that Taylor's importance is taken from


def begin(
    model: Supernet, origin: str, importance: Importance, folder: Path, data: TrainVal, seed: int
) -> tuple[str, ...]:
    """Give a supernet the weights of its network and sort its channels.

    The weights are kept in ``folder``: a run that continues does not need their source any more.

    Args:
        origin: of the weights, as ``weights.read`` takes it.
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
        read = weights.read(layout.network, str(kept) if kept.exists() else origin)
    distributed.wait()
    if distributed.rank() == 0 and not kept.exists():
        if origin != weights.RANDOM and (told := other_values(layout.network.reference, data.train)):
            logging.getLogger("supernet").warning(told)
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


def other_values(reference: str, images: ImageSet) -> str | None:
    """A line where images are normalised by other values than those that published weights learnt by."""
    learnt = published_values(reference, images)
    if learnt is None:
        return None
    theirs, these = _told(learnt), _told((images.mean, images.std))
    return f"published weights of {reference} learnt by images normalised by {theirs}, these are by {these}"


def published_values(reference: str, images: ImageSet) -> source.Values | None:
    """Mean and deviation that published weights learnt by; None where that is as these images are, or not known, or
    these do not come as pixels.
    """
    learnt, ours = source.normalisation(reference), (images.mean, images.std)
    if learnt is None or images.fit is None or np.shape(learnt) != np.shape(ours):
        return None
    return None if np.allclose(learnt, ours, atol=1e-3) else learnt


def as_published(images: TrainVal, reference: str) -> TrainVal:
    """Images of a run that begins with published weights, normalised as these learnt, where that is known."""
    learnt = published_values(reference, images.train)
    if learnt is None:
        return images
    distributed.tell(f"images are normalised by {_told(learnt)}, as the published weights of {reference} learnt")
    return images.normalised(*learnt)


def _told(values: source.Values) -> str:
    return " ± ".join(", ".join(f"{value:.3g}" for value in of) for of in values)


def _gradients(model: Supernet, data: TrainVal) -> None:
    """Those of the loss on some training images, the same on each rank."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    count, arch = min(IMAGES, len(data.train)), model.space.whole
    for x, y in Batches(stored.in_memory(data.train.subset(count, seed=0)), 64):
        F.cross_entropy(whole(model(x.to(device), arch)), y.to(device), reduction="sum").backward()
    model.train(training)
