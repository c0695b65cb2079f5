"""The modules that families of spaces are built from: convolutions with BN, fused pairs, blocks, stems and heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet import fused
from supernet.convolution import Conv2d
from supernet.norm import BatchNorm
from supernet.size import PIXEL
from supernet.spec import Block, Conv, LayerSpec, make_divisible

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hard_swish": nn.Hardswish,
    "swish": nn.SiLU,
}


def of_one_pixel(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1×1 convolution of images of one pixel, ``[B, I]`` to ``[B, O]``, as a product of matrices.

    PyTorch's convolutions mostly move weights there.
    """
    return F.linear(x, conv.weight.flatten(1), conv.bias)


class ConvBN(nn.Module):
    """Convolution, BN, activation: plain modules; with ``kernels="fused"`` BN and activation are one operator."""

    def __init__(self, spec: Conv, affine: bool, eps: float, kernels: str):
        super().__init__()
        self.conv = Conv2d(
            spec.in_channels,
            spec.out_channels,
            spec.kernel,
            spec.stride,
            spec.kernel // 2,
            groups=spec.groups,
            bias=spec.bias,
        )
        self.bn = BatchNorm(spec.out_channels, eps=eps, affine=affine)
        self.act = nn.Identity() if spec.act == "none" else ACTIVATIONS[spec.act](inplace=True)
        self.kernels, self.act_name = kernels, spec.act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x))) if self.kernels == "eager" else fused.single(x, self)


class Separable(nn.Module):
    """Depthwise convolution, BN, activation, pointwise convolution, BN, activation: one fused operator.

    The submodules are plain; ``kernels="eager"`` runs them one by one.
    """

    def __init__(self, depthwise: Conv, pointwise: Conv, affine: bool, eps: float, kernels: str):
        super().__init__()
        self.depthwise = ConvBN(depthwise, affine, eps, kernels)
        self.pointwise = ConvBN(pointwise, affine, eps, kernels)
        self.kernels = self.depthwise.kernels

    def forward(self, x: Tensor) -> Tensor:
        if self.kernels == "eager":
            return self.pointwise(self.depthwise(x))
        return fused.separable(x, self.depthwise, self.pointwise)


class SqueezeExcite(nn.Module):
    """Global pool, two 1×1 convolutions, hard-sigmoid gate (MobileNetV3)."""

    def __init__(self, reduce: Conv, expand: Conv, kernels: str):
        super().__init__()
        self.kernels = kernels
        self.reduce = nn.Conv2d(reduce.in_channels, reduce.out_channels, 1)
        self.expand = nn.Conv2d(expand.in_channels, expand.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.kernels == "eager":
            return x * F.hardsigmoid(self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))
        # The gradient of a sum is a view, that of a mean a tensor of x's size.
        pooled = x.sum((2, 3), dtype=torch.promote_types(x.dtype, torch.float32)) / (x.shape[2] * x.shape[3])
        gate = of_one_pixel(F.relu(of_one_pixel(pooled.to(x.dtype), self.reduce)), self.expand)
        return x * F.hardsigmoid(gate)[:, :, None, None]


class InvertedBottleneck(Block, nn.Module):
    """MobileNetV2: expand, depthwise, project; a skip where the shape stays the same; no expansion at e = 1.

    A ``middle`` in the spec stands for the expansion; squeeze-excite is then as wide as in MobileNetV3's code.
    """

    op = "ib"

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        cin, cout, size = spec.in_channels, spec.out_channels, spec.out_size
        mid = spec.middle or cin * spec.expand
        convs = {}
        if spec.expand != 1:
            convs["expand"] = Conv(cin, mid, 1, spec.size, act=spec.act)
        convs["depthwise"] = Conv(mid, mid, spec.kernel, size, spec.stride, groups=mid, act=spec.act)
        if spec.squeeze_excite:
            squeezed = make_divisible(mid // 4) if spec.middle else max(8, mid // 4)
            convs["reduce"] = Conv(mid, squeezed, 1, PIXEL, act="relu", norm=False, bias=True)
            convs["excite"] = Conv(squeezed, mid, 1, PIXEL, norm=False, bias=True)
        convs["project"] = Conv(mid, cout, 1, size)
        return convs

    @staticmethod
    def kept(spec: LayerSpec, conv: str) -> int:
        """The skip is held until the sum, from the second convolution on: the first one reads it itself."""
        skip = spec.stride == 1 and spec.in_channels == spec.out_channels
        return spec.in_channels * spec.size.pixels if skip and conv != next(iter(spec.convs)) else 0

    @staticmethod
    def refuses(spec: LayerSpec) -> str | None:
        no_width = spec.expand < 1 and not spec.middle
        return odd_kernel(spec) or (f"expansion {spec.expand}: expected at least 1" if no_width else None)

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__()
        convs = self.convs(spec)
        self.expand = ConvBN(convs["expand"], affine, eps, kernels) if "expand" in convs else nn.Identity()
        self.separable: Separable | nn.Sequential
        if spec.squeeze_excite:
            # It needs all of the depthwise output before any of it is projected: the two are not one operator.
            self.separable = nn.Sequential(
                ConvBN(convs["depthwise"], affine, eps, kernels),
                SqueezeExcite(convs["reduce"], convs["excite"], kernels),
                ConvBN(convs["project"], affine, eps, kernels),
            )
        else:
            self.separable = Separable(convs["depthwise"], convs["project"], affine, eps, kernels)
        self.adds = self.skip = spec.stride == 1 and spec.in_channels == spec.out_channels

    def forward(self, x: Tensor) -> Tensor:
        expand, separable = self.expand, self.separable
        if isinstance(expand, ConvBN) and isinstance(separable, Separable) and expand.kernels == "fused":
            return fused.inverted_bottleneck(x, expand, separable.depthwise, separable.pointwise, self.skip)
        y = separable(expand(x))
        return x + y if self.skip else y


class Shuffle(Block, nn.Module):
    """SPOS's ShuffleNetV2 block with a k×k depthwise convolution (``choice_3/5/7``).

    At stride 1 the even channels pass unchanged and the odd ones are computed; at stride 2 both branches read
    the whole input.
    """

    op = "shuffle"

    @staticmethod
    def main(spec: LayerSpec, inp: int, out: int) -> dict[str, Conv]:
        mid = spec.out_channels // 2
        return {
            "reduce": Conv(inp, mid, 1, spec.size, act=spec.act),
            "depthwise": Conv(mid, mid, spec.kernel, spec.out_size, spec.stride, groups=mid),
            "expand": Conv(mid, out, 1, spec.out_size, act=spec.act),
        }

    @classmethod
    def convs(cls, spec: LayerSpec) -> dict[str, Conv]:
        inp = spec.in_channels if spec.stride == 2 else spec.in_channels // 2
        convs = cls.main(spec, inp, spec.out_channels - inp)
        if spec.stride == 2:
            convs["project_depthwise"] = Conv(inp, inp, spec.kernel, spec.out_size, 2, groups=inp)
            convs["project"] = Conv(inp, inp, 1, spec.out_size, act=spec.act)
        return convs

    @staticmethod
    def kept(spec: LayerSpec, conv: str) -> int:
        """What the other branch holds, or still has to read."""
        whole = spec.in_channels * spec.size.pixels
        if spec.stride == 1:
            return whole // 2  # the half that passes unchanged
        if conv == "project_depthwise":
            return 0  # its input is what the main branch still has to read
        return whole if conv == "project" else spec.in_channels * spec.out_size.pixels

    @staticmethod
    def refuses(spec: LayerSpec) -> str | None:
        cin, cout = spec.in_channels, spec.out_channels
        if cout % 2:
            return f"{cout} output channels: a {spec.op} block splits them in halves, expected an even number"
        if spec.stride == 1 and cin != cout:
            return f"{cin} input and {cout} output channels: at stride 1 a {spec.op} block keeps their number"
        if spec.stride == 2 and cout <= cin:
            return f"{cin} input and {cout} output channels: at stride 2 a {spec.op} block adds channels"
        return odd_kernel(spec) or (f"stride {spec.stride}: expected 1 or 2" if spec.stride > 2 else None)

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__()
        convs = self.convs(spec)
        self.project = None
        if spec.stride == 2:
            depthwise, pointwise = convs.pop("project_depthwise"), convs.pop("project")
            self.project = Separable(depthwise, pointwise, affine, eps, kernels)
        # Every depthwise convolution is followed by a pointwise one: the two are one fused operator.
        layers: list[nn.Module] = []
        chain = list(convs.values())
        while chain:
            conv = chain.pop(0)
            if conv.groups > 1:
                layers.append(Separable(conv, chain.pop(0), affine, eps, kernels))
            else:
                layers.append(ConvBN(conv, affine, eps, kernels))
        self.branch = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.project is not None:
            return torch.cat((self.project(x), self.branch(x)), 1)
        return torch.cat((x[:, 0::2], self.branch(x[:, 1::2].contiguous(memory_format=torch.channels_last))), 1)


class Xception(Shuffle):
    """SPOS's ``choice_x``: three separable convolutions with 3×3 kernels in the main branch."""

    op = "xception"

    @staticmethod
    def main(spec: LayerSpec, inp: int, out: int) -> dict[str, Conv]:
        mid, size = spec.out_channels // 2, spec.out_size
        return {
            "depthwise1": Conv(inp, inp, 3, size, spec.stride, groups=inp),
            "pointwise1": Conv(inp, mid, 1, size, act=spec.act),
            "depthwise2": Conv(mid, mid, 3, size, groups=mid),
            "pointwise2": Conv(mid, mid, 1, size, act=spec.act),
            "depthwise3": Conv(mid, mid, 3, size, groups=mid),
            "pointwise3": Conv(mid, out, 1, size, act=spec.act),
        }


class Identity(Block, nn.Identity):
    """No layer: the input passes unchanged."""

    op = "identity"
    runs = False

    @staticmethod
    def refuses(spec: LayerSpec) -> str | None:
        return same_channels(spec) or (f"stride {spec.stride}: identity keeps the size" if spec.stride > 1 else None)

    def __init__(self, spec: LayerSpec, **_: object):
        super().__init__()


class Zero(Block, nn.Module):
    """No edge of a graph: nothing of the input, which keeps its part in the graph of gradients."""

    op = "zero"
    runs = False

    def __init__(self, spec: LayerSpec, **_: object):
        super().__init__()
        self.stride = spec.stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0


class MaxPool(Block, nn.MaxPool2d):
    """k×k max pooling."""

    op = "max_pool"

    @staticmethod
    def refuses(spec: LayerSpec) -> str | None:
        return same_channels(spec) or odd_kernel(spec)

    def __init__(self, spec: LayerSpec, **_: object):
        super().__init__(spec.kernel, spec.stride, spec.kernel // 2)


class Stem(Block, ConvBN):
    """3×3 convolution, BN, activation."""

    op = "stem"

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        cin, cout = spec.in_channels, spec.out_channels
        return {"conv": Conv(cin, cout, 3, spec.out_size, spec.stride, act=spec.act, bias=spec.bias)}

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__(self.convs(spec)["conv"], affine, eps, kernels)


class Head(Block, nn.Module):
    """1×1 convolution, BN, activation, global average pool, dropout, linear."""

    op = "head"

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        return {
            "conv": Conv(spec.in_channels, spec.out_channels, 1, spec.size, act=spec.act),
            "classifier": Conv(spec.out_channels, spec.classes, 1, PIXEL, norm=False, bias=spec.bias),
        }

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__()
        self.conv = ConvBN(self.convs(spec)["conv"], affine, eps, kernels)
        self.dropout = nn.Dropout(spec.dropout)
        self.classifier = nn.Linear(spec.out_channels, spec.classes, bias=spec.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.conv(x), 1).flatten(1)
        return self.classifier(self.dropout(x))


class PoolHead(Block, nn.Module):
    """Global average pool, linear."""

    op = "pool_head"

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        return {"classifier": Conv(spec.in_channels, spec.classes, 1, PIXEL, norm=False, bias=spec.bias)}

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__()
        self.classifier = nn.Linear(spec.in_channels, spec.classes, bias=spec.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, classes]``."""
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


def odd_kernel(spec: LayerSpec) -> str | None:
    """Why padding by half of the kernel would change the size: the kernel is even; else None."""
    return f"kernel {spec.kernel}: expected an odd number" if spec.kernel % 2 == 0 else None


def same_channels(spec: LayerSpec) -> str | None:
    """Why a layer without weights cannot be built: it would have to change the number of channels; else None."""
    cin, cout = spec.in_channels, spec.out_channels
    return None if cin == cout else f"{cin} input and {cout} output channels: {spec.op} keeps their number"


def kept_for_sum(spec: LayerSpec, conv: str) -> int:
    """Values that a residual block holds while ``conv`` runs: its input; during the shortcut, the main branch."""
    if conv == "shortcut":
        return spec.out_channels * spec.out_size.pixels
    return 0 if conv == next(iter(spec.convs)) else spec.in_channels * spec.size.pixels
