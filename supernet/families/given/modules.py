"""A given network's layers as ours: BN whose statistics can be recalibrated, convolutions without known faults."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.convolution import Conv2d
from supernet.norm import BatchNorm, BatchNorm1d


class BatchNormAct(BatchNorm):
    """timm's BN with an activation, by the same names."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class SameConv2d(Conv2d):
    """timm's convolution with TensorFlow's padding, which depends on the size of the images."""

    def padded(self, x: Tensor) -> Tensor:
        """With zeros around, more of them at the end, so that each stride begins at a pixel."""
        pads: list[Any] = []
        for axis in (1, 0):
            size, stride = x.shape[2 + axis], self.stride[axis]
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            # Of numbers torch.sym_max is max; it can be traced.
            pad = torch.sym_max(-size % stride + reach - stride, 0)
            pads += [pad // 2, pad - pad // 2]
        return F.pad(x, pads)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.padded(x))


def ours(model: nn.Module) -> nn.Module:
    """The same model, its BN layers and convolutions of this library's classes; their weights and names stay."""
    from timm import layers

    classes: dict[type[nn.Module], type[nn.Module]] = {
        nn.BatchNorm1d: BatchNorm1d,
        nn.BatchNorm2d: BatchNorm,
        layers.BatchNormAct2d: BatchNormAct,
        nn.Conv2d: Conv2d,
        layers.Conv2dSame: SameConv2d,
        layers.Linear: nn.Linear,  # which does the same
        layers.LayerNorm: nn.LayerNorm,
        layers.RmsNorm: nn.RMSNorm,
    }
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) in classes:
                setattr(module, name, _as(classes[type(child)], child))
    return model


def _as(cls: type[nn.Module], module: nn.Module) -> nn.Module:
    own = cls.__new__(cls)
    own.__dict__ = module.__dict__
    if isinstance(own, BatchNorm) and own.momentum is None:
        own.momentum = 0.1
    return own
