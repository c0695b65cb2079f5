"""The blocks of elastic spaces: those of once-for-all (Cai et al., 2020) and AttentiveNAS (Wang et al., 2021).

Mobile blocks without a shortcut of their own are ``modules.InvertedBottleneck``.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from supernet.convolution import Conv2d
from supernet.fused import convolved
from supernet.modules import (
    ACTIVATIONS,
    ConvBN,
    Head,
    InvertedBottleneck,
    PoolHead,
    Stem,
    kept_for_sum,
    of_one_pixel,
)
from supernet.size import PIXEL
from supernet.spec import Block, Conv, LayerSpec


class ElasticStem(Stem):
    """The stem of a space with a gene for the resolution."""

    op = "elastic_stem"


class StemResidual(Stem):
    """3×3 convolution, BN, activation, plus the input."""

    op = "stem_residual"
    adds = True

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class StemPool(Block, ConvBN):
    """3×3 convolution, BN, activation, then 3×3 max pooling with the stride."""

    op = "stem_pool"

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        return {"conv": Conv(spec.in_channels, spec.out_channels, 3, spec.size, act=spec.act)}

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__(self.convs(spec)["conv"], affine, eps, kernels)
        self.stride = spec.stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(super().forward(x), 3, self.stride, 1)


class Attentive(InvertedBottleneck):
    """An inverted bottleneck that always has a shortcut (AttentiveNAS).

    The shortcut averages over 2×2 where the stride is 2, and is a 1×1 convolution without BN where channels differ.
    """

    op = "attentive"
    kept = staticmethod(kept_for_sum)

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        convs = InvertedBottleneck.convs(spec)
        if spec.in_channels != spec.out_channels:
            convs["shortcut"] = Conv(spec.in_channels, spec.out_channels, 1, spec.out_size, norm=False)
        return convs

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__(spec, affine, eps, kernels)
        self.skip, self.stride = False, spec.stride  # the sum is ours
        wanted = "shortcut" in self.convs(spec)
        self.adds = spec.stride == 1 and not wanted
        self.shortcut = Conv2d(spec.in_channels, spec.out_channels, 1, bias=False) if wanted else nn.Identity()
        self.kernels = kernels

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride, padding=(x.shape[2] % 2, x.shape[3] % 2))
        if self.kernels == "fused" and isinstance(self.shortcut, Conv2d):
            return y + convolved(x, self.shortcut)
        return y + self.shortcut(x)


class AttentiveShared(Attentive):
    """The block that a supernet shares: narrower networks need the shortcut's convolution where the widest has none."""

    op = "attentive_shared"

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        shortcut = Conv(spec.in_channels, spec.out_channels, 1, spec.out_size, norm=False)
        return {**InvertedBottleneck.convs(spec), "shortcut": shortcut}


class ResNetD(Block, nn.Module):
    """Bottleneck of once-for-all's ResNet-50: 1×1, 3×3 with the stride, 1×1 around ``middle`` channels.

    The shortcut keeps the shape, or averages over the stride and is a 1×1 convolution and BN (ResNet-D).
    """

    op, added = "resnet_d", "expand"
    kept = staticmethod(kept_for_sum)

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        cin, mid, cout, size = spec.in_channels, spec.middle, spec.out_channels, spec.out_size
        return {
            "reduce": Conv(cin, mid, 1, spec.size, act=spec.act),
            "spatial": Conv(mid, mid, 3, size, spec.stride, act=spec.act),
            "expand": Conv(mid, cout, 1, size),
        }

    @staticmethod
    def refuses(spec: LayerSpec) -> str | None:
        return None if spec.middle else "it has no expansion"

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__()
        convs = {name: ConvBN(conv, affine, eps, kernels) for name, conv in self.convs(spec).items()}
        self.reduce, self.spatial, self.expand = convs["reduce"], convs["spatial"], convs["expand"]
        self.shortcut, self.stride = convs.get("shortcut", nn.Identity()), spec.stride
        self.act = ACTIVATIONS[spec.act](inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(self.spatial(self.reduce(x)))
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)
        return self.act(y + self.shortcut(x))


class FirstResNetD(ResNetD):
    """The first block of a stage: its shortcut is always a convolution, whatever the channels."""

    op = "resnet_d_first"

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        return {**ResNetD.convs(spec), "shortcut": Conv(spec.in_channels, spec.out_channels, 1, spec.out_size)}


class MixHead(Block, nn.Module):
    """MobileNetV3's head: 1×1 convolution, BN, activation, pool, 1×1 convolution without BN, activation, linear."""

    op = "mix_head"

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        return {
            "conv": Conv(spec.in_channels, spec.middle, 1, spec.size, act=spec.act),
            "mix": Conv(spec.middle, spec.out_channels, 1, PIXEL, act=spec.act, norm=False),
            "classifier": Conv(spec.out_channels, spec.classes, 1, PIXEL, norm=False, bias=spec.bias),
        }

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__()
        self.conv = ConvBN(self.convs(spec)["conv"], affine, eps, kernels)
        self.mix = Conv2d(spec.middle, spec.out_channels, 1, bias=False)
        self.act, self.kernels = ACTIVATIONS[spec.act](inplace=True), kernels
        self.dropout = nn.Dropout(spec.dropout)
        self.classifier = nn.Linear(spec.out_channels, spec.classes, bias=spec.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.conv(x), 1)
        x = self.mix(x).flatten(1) if self.kernels == "eager" else of_one_pixel(x.flatten(1), self.mix)
        return self.classifier(self.dropout(self.act(x)))


@dataclass(frozen=True)
class Kind:
    """A kind of stage.

    Args:
        first, further: the blocks of a stage; without ``further`` it has one.
        shared: what a supernet builds in place of ``first`` where widths before and in the stage vary.
        act: of its layers; empty: that of the space.
        matrices: smaller kernels are the larger ones' centres times learnt matrices (once-for-all).
        of_outputs: expansions multiply the output channels, not the input channels.
    """

    first: type[Block]
    further: type[Block] | None
    shared: type[Block] | None = None
    act: str = ""
    squeeze_excite: bool = False
    matrices: bool = False
    of_outputs: bool = False


def _mobile(act: str = "", squeeze_excite: bool = False) -> Kind:
    return Kind(InvertedBottleneck, InvertedBottleneck, None, act, squeeze_excite, matrices=True)


STEM = "image_stem"  # the kind of the first stage
KINDS = {
    STEM: Kind(ElasticStem, StemResidual),
    "stem_pool": Kind(StemPool, None),
    "mobile": _mobile(),
    "mobile_se": _mobile(squeeze_excite=True),
    "mobile_relu": _mobile("relu"),
    "mobile_relu_se": _mobile("relu", squeeze_excite=True),
    "attentive": Kind(Attentive, Attentive, AttentiveShared),
    "attentive_se": Kind(Attentive, Attentive, AttentiveShared, squeeze_excite=True),
    "resnet_d": Kind(FirstResNetD, ResNetD, of_outputs=True),
}
HEADS: dict[str, type[Block]] = {head.op: head for head in (Head, PoolHead, MixHead)}
