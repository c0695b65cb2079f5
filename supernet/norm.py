"""Batch normalisation whose statistics can be pooled exactly over many batches."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation; in training mode with a ``pool`` it collects pooled statistics instead of running ones."""

    pool: PooledStatistics | None = None
    sync = False  # normalise by the statistics of all ranks' batches together
    ran = False  # running statistics have moved since this was reset
    # torch also allows a BN without running statistics; ours always has them.
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        if self.pool is None:
            self.ran = True
            return self.synchronised(x) if self.sync and dist.is_initialized() else super().forward(x)
        momentum, self.momentum = self.momentum, 1.0  # running statistics become those of this batch
        try:
            y = super().forward(x)
        finally:
            self.momentum = momentum
        n = x.numel() // x.shape[1]
        self.pool.add(n, self.running_mean, self.running_var * ((n - 1) / n))
        return y

    def synchronised(self, x: Tensor) -> Tensor:
        """Normalised by mean and variance over the batches of all ranks, which have the same size each."""
        values = x if x.dtype in (torch.float32, torch.float64) else x.float()
        var, mean = torch.var_mean(values, (0, *range(2, x.ndim)), correction=0)
        shared = MeanOverRanks.apply(mean)
        var = MeanOverRanks.apply(var + (mean - shared) ** 2)  # the second term is the between-rank one
        self.track(shared.detach(), var.detach(), x.numel() // x.shape[1] * dist.get_world_size())
        scale = torch.rsqrt(var + self.eps)
        scale = scale if self.weight is None else scale * self.weight
        shift = -shared * scale if self.bias is None else self.bias - shared * scale
        along = (1, -1, *(1,) * (x.ndim - 2))
        return torch.addcmul(shift.view(along), values, scale.view(along)).to(x.dtype)

    @torch.no_grad()
    def track(self, mean: Tensor, var: Tensor, n: int) -> None:
        """Record the statistics of a batch that a fused operator computed.

        Args:
            mean, var: ``[C]``, or those of the first channels only; the variance is the biased one.
            n: values per channel.
        """
        if self.pool is not None:
            self.pool.add(n, mean, var)
        else:
            self.ran = True
            c = len(mean)  # a layer that runs at part of its width gives its first channels
            self.running_mean[:c].lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var[:c].lerp_(var.to(self.running_var.dtype) * (n / max(n - 1, 1)), self.momentum)

    def folded(self) -> tuple[Tensor, Tensor]:
        """``(scale, shift)``, ``[C]`` each: in eval mode BN is ``x * scale + shift``."""
        scale = torch.rsqrt(self.running_var + self.eps)
        if self.weight is None:
            return scale, -self.running_mean * scale
        scale = scale * self.weight
        return scale, torch.addcmul(self.bias, self.running_mean, scale, value=-1)


class BatchNorm1d(nn.BatchNorm1d, BatchNorm):
    """The same for vectors ``[B, C]``, or rows of them ``[B, C, L]``."""


class MeanOverRanks(torch.autograd.Function):
    """The mean of a tensor over the ranks; so is the gradient, since losses are averaged over the ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _mean(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _mean(grad)


def _mean(x: Tensor) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x)
    return x / dist.get_world_size()


class PooledStatistics:
    """Mean and variance of everything seen, by the parallel update of Chan et al. (1979), in double."""

    def __init__(self, channels: int, device: torch.device):
        self.n = 0
        self.mean = torch.zeros(channels, dtype=torch.double, device=device)
        self.m2 = torch.zeros_like(self.mean)

    def add(self, n: int, mean: Tensor, var: Tensor) -> None:
        """Merge a batch of ``n`` values per channel with this mean and biased variance.

        They may be those of the first channels only, the same number each time; then only these are kept.
        """
        mean, var = mean.double(), var.double()
        self.mean, self.m2 = self.mean[: len(mean)], self.m2[: len(mean)]
        total, delta = self.n + n, mean - self.mean
        self.m2 += var * n + delta**2 * (self.n * n / total)  # the second term is the between-batch one
        self.mean += delta * (n / total)
        self.n = total

    @property
    def var(self) -> Tensor:
        """Unbiased, as ``running_var`` is."""
        return self.m2 / max(self.n - 1, 1)
