"""What a path answers to images, and how often that is right."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from supernet.answers import Answers
from supernet.data.images import ImageSet
from supernet.metrics import TOP1, Metric
from supernet.model import Network, Supernet
from supernet.space import Arch
from supernet.training import distributed

Model = Supernet | Network
BATCH = 512  # images of a forward pass, where memory allows
Batches = Iterable[tuple[Tensor, Tensor]]


def hits(logits: Tensor, labels: Tensor, metric: Metric = TOP1) -> Tensor:
    """Of each class, the images that are right, as ``metrics.share`` takes them: int64 [classes].

    Args:
        logits: ``[B, classes]``. labels: int64 [B].
    """
    top5 = metric == "top5"
    right = (_guesses(logits) == labels[:, None]).any(1) if top5 else logits.argmax(1) == labels
    return torch.zeros(logits.shape[1], dtype=torch.long, device=logits.device).index_add_(0, labels, right.long())


def _guesses(logits: Tensor) -> Tensor:
    """Classes as ``Answers`` has them; of equal logits argmax takes the first, topk any."""
    return torch.cat([logits.argmax(1, keepdim=True), logits.topk(min(5, logits.shape[1])).indices], 1)


@torch.inference_mode()
def answers(model: Model, batches: Batches, arch: Arch | None = None) -> Answers:
    """What the model answers to images and labels, in eval mode."""
    training, device, classes = model.training, next(model.parameters()).device, model.space.classes
    labels, guesses = [torch.empty(0, dtype=torch.long)], [torch.empty(0, 1 + min(5, classes), dtype=torch.long)]
    model.eval()
    try:
        for x, y in batches:
            guesses.append(_guesses(model(x.to(device), arch)))
            labels.append(y)
    finally:
        model.train(training)
    return Answers(torch.cat(labels).numpy(), torch.cat([part.cpu() for part in guesses]).numpy(), classes)


def shared_answers(model: Model, images: ImageSet, arch: Arch | None = None, batch: int = BATCH) -> Answers:
    """What the model answers to all images of a set; under torchrun every rank computes its share of them.

    Args:
        batch: the most images at once; more than ``BATCH`` are not taken.
    """
    mine = images.plain_batches(min(batch, BATCH), distributed.rank(), distributed.world())
    parts = distributed.gathered(answers(model, mine, arch))
    labels, guesses = (np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "guesses"))
    return Answers(labels, guesses, parts[0].classes)


def evaluate(model: Model, batches: Batches, arch: Arch | None = None, metric: Metric = TOP1) -> float:
    """The metric in [0, 1], in eval mode; a UserError where there are no images."""
    return answers(model, batches, arch).share(metric)


def validate(
    model: Model, images: ImageSet, arch: Arch | None = None, batch: int = BATCH, metric: Metric = TOP1
) -> float:
    """The metric in [0, 1] on all images, as ``shared_answers`` computes them."""
    return shared_answers(model, images, arch, batch).share(metric)
