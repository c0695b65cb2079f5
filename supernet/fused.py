"""Convolutions with BN and activation on our operators: one operator for one, two or three of them."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from supernet.convolution import Conv2d, conv2d
from supernet.norm import BatchNorm

# The operators are imported where they run, so that eager networks need no extension.


class Convolution(Protocol):
    """Plain modules: a convolution, its BN, and an activation that has a name here."""

    @property
    def conv(self) -> Conv2d: ...

    @property
    def bn(self) -> BatchNorm: ...

    @property
    def act(self) -> nn.Module: ...

    @property
    def act_name(self) -> str: ...


def convolved(x: Tensor, conv: Conv2d) -> Tensor:
    """A convolution by our operator where that has kernels of its own for it: pointwise and depthwise."""
    pointwise = conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1
    if conv.bias is None and (pointwise or conv.groups == conv.in_channels == conv.out_channels):
        from supernet import ops

        stride, padding = conv.stride[0], int(conv.padding[0])
        return ops.masked_conv2d(x, conv.weight, stride=stride, padding=padding, groups=conv.groups)
    return conv(x)


def single(x: Tensor, layer: Convolution) -> Tensor:
    """One convolution; BN and activation are one operator in training, BN is folded into the weights else."""
    conv, bn = layer.conv, layer.bn
    if not bn.training:
        scale, shift = bn.folded()
        if conv.bias is not None:
            shift = torch.addcmul(shift, conv.bias, scale)
        weight = conv.weight * scale.view(-1, 1, 1, 1)
        stride, padding, groups = conv.stride[0], int(conv.padding[0]), conv.groups
        return layer.act(conv2d(x, weight, shift, stride=stride, padding=padding, groups=groups))
    from supernet import ops

    y, stats = ops.batch_norm_act_train(convolved(x, conv), bn.weight, bn.bias, eps=bn.eps, act=layer.act_name)
    bn.track(*stats, y.numel() // y.shape[1])
    return y


def separable(x: Tensor, depthwise: Convolution, pointwise: Convolution) -> Tensor:
    """A depthwise convolution and a pointwise one as one operator."""
    from supernet import ops

    dw, pw = depthwise, pointwise
    stride, mid, out = dw.conv.stride[0], dw.act_name, pw.act_name
    if not dw.bn.training:
        folded = (dw.conv.weight, *dw.bn.folded(), pw.conv.weight, *pw.bn.folded())
        return ops.dw_separable(x, *folded, stride=stride, mid_act=mid, out_act=out)
    parameters = (t for c in (dw, pw) for t in (c.conv.weight, c.bn.weight, c.bn.bias))
    y, *stats = ops.dw_separable_train(x, *parameters, eps=dw.bn.eps, stride=stride, mid_act=mid, out_act=out)
    for c, (mean, var) in zip((dw, pw), stats, strict=True):
        c.bn.track(mean, var, y.numel() // y.shape[1])  # the depthwise output has the same batch and size
    return y


def inverted_bottleneck(
    x: Tensor, expand: Convolution, depthwise: Convolution, pointwise: Convolution, residual: bool
) -> Tensor:
    """A pointwise, a depthwise and a pointwise convolution as one operator, and the sum with their input.

    Args:
        expand, depthwise: have the same activation. pointwise: has none.
    """
    from supernet import ops

    convs = expand, depthwise, pointwise
    stride, act = depthwise.conv.stride[0], expand.act_name
    if not expand.bn.training:
        folded = (t for c in convs for t in (c.conv.weight, *c.bn.folded()))
        return ops.inverted_bottleneck(x, *folded, residual=residual, stride=stride, act=act)
    parameters = (t for c in convs for t in (c.conv.weight, c.bn.weight, c.bn.bias))
    y, *stats = ops.inverted_bottleneck_train(
        x, *parameters, eps=expand.bn.eps, residual=residual, stride=stride, act=act
    )
    for conv, sized, (mean, var) in zip(convs, (x, y, y), stats, strict=True):
        conv.bn.track(mean, var, sized.numel() // sized.shape[1])
    return y
