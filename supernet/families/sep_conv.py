"""The plain space of Efficient Global NAS (§3.1): a stack of ``Sep`` and ``Conv`` layers without skips.

Stem 3×3 to 2C channels; layers at a third and two thirds of the depth double the channels and halve the image;
global average pool; linear. A space has a depth and a width; an architecture is the operation and kernel of each layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.convolution import Conv2d
from supernet.families.layerwise import Layerwise
from supernet.modules import ConvBN, PoolHead, odd_kernel
from supernet.norm import BatchNorm
from supernet.space import Arch, Choice, Gene, Space
from supernet.spec import Block, Conv, LayerSpec

OPS = ("sep", "conv")
KERNELS = (3, 5)


def space(
    depth: int, width: int, channels: int, resolution: int, classes: int, kernels: Sequence[int] = KERNELS
) -> Space:
    """The networks of ``depth`` layers that begin with ``width`` channels: 4^depth with the kernels 3 and 5."""
    choices = tuple(Choice(op, kernel) for op in OPS for kernel in kernels)  # as ``arch`` counts them
    genes, cin, cout = [], 2 * width, width
    for i in range(depth):
        reduces = i in (depth // 3, 2 * depth // 3)
        cout = 2 * cout if reduces else cout
        genes.append(Gene(f"layer{i}", choices, cin, cout, 2 if reduces else 1))
        cin = cout
    return Space(
        name=f"plain-{depth}x{width}",
        channels=channels,
        resolution=resolution,
        classes=classes,
        stem_channels=2 * width,
        stem_stride=1,
        head_channels=cin,
        act="relu",
        genes=tuple(genes),
        allowed=(tuple(range(len(choices))),) * depth,
        init="pytorch",
    )


def arch(ops: Sequence[int], kernels: Sequence[int], among: Sequence[int] = KERNELS) -> Arch:
    """The architecture with these operations (0 Sep, 1 Conv) and kernels, of those that the space has."""
    return tuple(len(among) * op + among.index(kernel) for op, kernel in zip(ops, kernels, strict=True))


class PlainStem(Block, ConvBN):
    """3×3 convolution and BN; the first layer begins with the ReLU."""

    op = "plain_stem"

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        return {"conv": Conv(spec.in_channels, spec.out_channels, 3, spec.out_size, spec.stride)}

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__(self.convs(spec)["conv"], affine, eps, kernels)


class Sep(Block, nn.Module):
    """ReLU, depthwise k×k, pointwise 1×1, BN. ``kernels="eager"`` runs the plain submodules."""

    op = "sep"
    refuses = staticmethod(odd_kernel)

    # What `dw_separable` applies between the two convolutions: nothing.
    one: Tensor
    zero: Tensor

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        cin, size = spec.in_channels, spec.out_size
        return {
            "depthwise": Conv(cin, cin, spec.kernel, size, spec.stride, groups=cin, norm=False),
            "pointwise": Conv(cin, spec.out_channels, 1, size),
        }

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__()
        cin, k = spec.in_channels, spec.kernel
        self.depthwise = Conv2d(cin, cin, k, spec.stride, k // 2, groups=cin, bias=False)
        self.pointwise = nn.Conv2d(cin, spec.out_channels, 1, bias=False)
        self.bn = BatchNorm(spec.out_channels, eps=eps, affine=affine)
        self.stride, self.kernels = spec.stride, kernels
        self.register_buffer("one", torch.ones(cin), persistent=False)
        self.register_buffer("zero", torch.zeros(cin), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        if self.kernels == "eager":
            return self.bn(self.pointwise(self.depthwise(x)))
        from supernet import ops

        if not self.bn.training:
            depthwise = (self.depthwise.weight, self.one, self.zero)
            return ops.dw_separable(
                x, *depthwise, self.pointwise.weight, *self.bn.folded(), stride=self.stride, mid_act="none"
            )
        x = self.pointwise(ops.depthwise_conv2d(x, self.depthwise.weight, stride=self.stride))
        y, stats = ops.batch_norm_act_train(x, self.bn.weight, self.bn.bias, eps=self.bn.eps)
        self.bn.track(*stats, y.numel() // y.shape[1])
        return y


class PlainConv(Block, ConvBN):
    """ReLU, convolution k×k, BN."""

    op = "conv"
    refuses = staticmethod(odd_kernel)

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        return {"conv": Conv(spec.in_channels, spec.out_channels, spec.kernel, spec.out_size, spec.stride)}

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__(self.convs(spec)["conv"], affine, eps, kernels)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.relu(x))


FAMILY = Layerwise((Sep, PlainConv), PlainStem, PoolHead)
