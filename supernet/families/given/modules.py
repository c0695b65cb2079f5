"""A given network's layers as ours: BN whose statistics can be recalibrated, convolutions without known faults."""

from __future__ import annotations

from torch import Tensor, nn

from supernet.convolution import Conv2d
from supernet.norm import BatchNorm


class BatchNormAct(BatchNorm):
    """timm's BN with an activation, by the same names."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def ours(model: nn.Module) -> nn.Module:
    """The same model, its BN layers and convolutions of this library's classes; their weights and names stay."""
    from timm.layers import BatchNormAct2d

    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d and child.track_running_stats:
                setattr(module, name, _as(BatchNorm, child))
            elif type(child) is BatchNormAct2d and child.track_running_stats:
                setattr(module, name, _as(BatchNormAct, child))
            elif type(child) is nn.Conv2d:
                setattr(module, name, _as(Conv2d, child))
    return model


def _as(cls: type[nn.Module], module: nn.Module) -> nn.Module:
    own = cls.__new__(cls)
    own.__dict__ = module.__dict__
    if isinstance(own, BatchNorm) and own.momentum is None:
        own.momentum = 0.1
    return own
