"""BN statistics of one path, pooled over many batches."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from supernet.errors import UserError
from supernet.model import batch_norms
from supernet.norm import PooledStatistics
from supernet.space import Arch
from supernet.training.evaluation import Model


@torch.no_grad()
def recalibrate_bn(model: Model, batches: Iterable[Tensor], arch: Arch | None = None) -> None:
    """Give the BN layers on the path the mean and variance of all values that pass them (SPOS §3.4).

    Pooled over the batches, the between-batch variance included. Nothing else changes: other BN layers, weights
    and training flags stay; if anything fails, the old statistics come back.

    Args:
        batches: images ``[B, C, H, W]``; at least one.
    """
    norms = list(batch_norms(model.path(arch)))
    before = [(bn.running_mean.clone(), bn.running_var.clone(), bn.num_batches_tracked.clone()) for bn in norms]
    training, device = model.training, next(model.parameters()).device
    model.eval()
    done = False
    try:
        for bn in norms:
            bn.train()
            bn.pool = PooledStatistics(bn.num_features, bn.running_mean.device)
        for x in batches:
            model(x.to(device), arch)
        if any(bn.pool.n == 0 for bn in norms):
            raise UserError("no images to recalibrate BN with: expected at least one batch")
        for bn in norms:
            width = len(bn.pool.mean)  # of a layer that ran at a part of its width the first channels
            bn.running_mean[:width].copy_(bn.pool.mean)
            bn.running_var[:width].copy_(bn.pool.var)
        done = True
    finally:
        for bn, (mean, var, count) in zip(norms, before, strict=True):
            bn.pool = None
            bn.num_batches_tracked.copy_(count)
            if not done:
                bn.running_mean.copy_(mean)
                bn.running_var.copy_(var)
        model.train(training)
