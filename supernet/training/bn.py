"""BN statistics of one path, pooled over many batches."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from supernet.errors import UserError
from supernet.model import Network, batch_norms
from supernet.norm import PooledStatistics
from supernet.space import Arch
from supernet.training import faults
from supernet.training.evaluation import Model

LOWER = "recalibrate BN with fewer images per batch"


@torch.no_grad()
def recalibrate_bn(model: Model, batches: Iterable[Tensor], arch: Arch | None = None) -> None:
    """Give the BN layers on the path the mean and variance of all values that pass them (SPOS §3.4).

    Pooled over the batches, the between-batch variance included. Nothing else changes: other BN layers, weights
    and training flags stay; if anything fails, the old statistics come back.

    Args:
        batches: images ``[B, C, H, W]``; at least one.
    """
    if isinstance(model, Network):
        path = model.path(arch)
    elif arch is None:
        raise ValueError("expected an architecture: a supernet has a path for each")
    else:
        path = model.path(arch)
    norms = list(batch_norms(path))
    pools = [PooledStatistics(bn.num_features, bn.running_mean.device) for bn in norms]
    before = [(bn.running_mean.clone(), bn.running_var.clone(), bn.num_batches_tracked.clone()) for bn in norms]
    training, device = model.training, next(model.parameters()).device
    model.eval()
    done = False
    try:
        for bn, pool in zip(norms, pools, strict=True):
            bn.train()
            bn.pool = pool
        batch = None
        for batch in batches:
            with faults.memory(lambda: f"recalibration{faults.on(arch)}", batch, LOWER):
                model(batch.to(device), arch)
        if batch is None:
            raise UserError("no images to recalibrate BN with: expected at least one batch")
        idle = {id(bn) for bn, pool in zip(norms, pools, strict=True) if pool.n == 0}
        if idle:
            name = next(name for name, module in model.named_modules() if id(module) in idle)
            raise UserError(f"{name} lies on the path of {arch} but did not run: a path holds only what runs")
        for bn, pool in zip(norms, pools, strict=True):
            width = len(pool.mean)  # of a layer that ran at a part of its width the first channels
            bn.running_mean[:width].copy_(pool.mean)
            bn.running_var[:width].copy_(pool.var)
        done = True
    finally:
        for bn, (mean, var, count) in zip(norms, before, strict=True):
            bn.pool = None
            bn.num_batches_tracked.copy_(count)
            if not done:
                bn.running_mean.copy_(mean)
                bn.running_var.copy_(var)
        model.train(training)
