"""Stages of residual blocks whose depths and widths are searched: NSS's expanded space and its weight sharing.

Every stage of the supernet is built once, at its largest depth and width. A width w uses the first w channels of each
kernel, a depth d the output of the d-th block; later blocks do not run (NSS, supplementary C; FBNetV2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.active import active, box
from supernet.convolution import conv2d
from supernet.errors import UserError
from supernet.families import resolutions
from supernet.families.base import Priced, Shared, Total
from supernet.modules import ACTIVATIONS, ConvBN, PoolHead, Stem, kept_for_sum
from supernet.size import Size
from supernet.space import Arch, Choice, Gene, Space
from supernet.spec import Block, BuildOptions, Conv, LayerSpec, Price

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Residual(Block, nn.Module):
    """Basic block of He et al.: conv–BN–ReLU–conv–BN, plus the input, ReLU."""

    op, added = "residual", "second"

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        cin, cout, size = spec.in_channels, spec.out_channels, spec.out_size
        return {
            "first": Conv(cin, cout, 3, size, spec.stride, act=spec.act),
            "second": Conv(cout, cout, 3, size),
        }

    kept = staticmethod(kept_for_sum)

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__()
        convs = {name: ConvBN(conv, affine, eps, kernels) for name, conv in self.convs(spec).items()}
        self.first, self.second = convs["first"], convs["second"]
        self.shortcut = convs.get("shortcut", nn.Identity())
        self.act = ACTIVATIONS[spec.act](inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.second(self.first(x)) + self.shortcut(x))

    def narrow(self, x: Tensor, width: int, mask: Tensor | None = None) -> Tensor:
        """The block of the first ``width`` channels.

        Args:
            x: ``[B, w, H, W]``, the first w input channels.
            mask: ``[width]``, ≥ 0: multiplies the channels after each BN and ReLU. It is applied before the ReLU,
                which is the same: m · ReLU(z) = ReLU(m · z).
        """
        y = narrow(self.second, narrow(self.first, x, width, mask), width, mask)
        if isinstance(self.shortcut, ConvBN):
            return self.act(y + narrow(self.shortcut, x, width, mask))
        return self.act(y + x if mask is None else torch.addcmul(y, x, mask.view(-1, 1, 1)))


class FirstResidual(Residual):
    """The first block of a stage: its skip is always a 1×1 convolution and BN, whatever the shapes."""

    op = "residual_first"

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        cin, cout = spec.in_channels, spec.out_channels
        return {**Residual.convs(spec), "shortcut": Conv(cin, cout, 1, spec.out_size, spec.stride)}


def narrow(layer: ConvBN, x: Tensor, width: int, mask: Tensor | None = None) -> Tensor:
    """Convolution, BN, activation with the first ``width`` outputs of ``layer`` and as many inputs as x has.

    ``mask`` ``[width]`` ≥ 0 multiplies the output. Before the batch's statistics BN would cancel it; after them it can
    multiply BN's scale and shift, and passes through the activation, which is ReLU or none.
    """
    conv, bn = layer.conv, layer.bn
    stride, padding = conv.stride[0], conv.kernel_size[0] // 2
    affine = [] if bn.weight is None else [bn.weight, bn.bias]
    first = box(conv.weight.shape, (width, x.shape[1], *conv.kernel_size))
    weight, *rest = active([conv.weight, *affine], [first, first[:1], first[:1]][: 1 + len(affine)])
    gamma, beta = rest or (None, None)
    if mask is not None:
        gamma = mask if gamma is None else gamma * mask
        beta = torch.zeros_like(mask) if beta is None else beta * mask
    if layer.kernels == "eager":
        y = conv2d(x, weight, stride=stride, padding=padding)
        if bn.training:
            n = y.numel() // width
            mean, var = (torch.zeros(width, dtype=bn.running_mean.dtype, device=y.device) for _ in range(2))
            # With momentum 1 the running statistics become those of the batch.
            y = F.batch_norm(y, mean, var, gamma, beta, True, momentum=1.0, eps=bn.eps)
            bn.track(mean, var * ((n - 1) / n), n)
        else:
            y = F.batch_norm(y, bn.running_mean[:width], bn.running_var[:width], gamma, beta, eps=bn.eps)
        return layer.act(y)
    from supernet import ops  # here, so that eager networks need no extension

    if not bn.training:
        scale, shift = (v[:width] if mask is None else v[:width] * mask for v in bn.folded())
        y = ops.masked_conv2d(x, weight, coefficients=scale, stride=stride, padding=padding)
        return layer.act(y + shift.view(-1, 1, 1))
    y = ops.masked_conv2d(x, weight, stride=stride, padding=padding)
    y, stats = ops.batch_norm_act_train(y, gamma, beta, eps=bn.eps, act=layer.act_name)
    bn.track(*stats, y.numel() // width)
    return y


def logits(head: nn.Module, x: Tensor) -> Tensor:
    """Of the first w channels ``[B, w, H, W]``, by the first w columns of the weight of a ``PoolHead``."""
    assert isinstance(head, PoolHead)
    weight = head.classifier.weight
    (weight,) = active([weight], [box(weight.shape, (len(weight), x.shape[1]))])
    return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), weight, head.classifier.bias)


@dataclass(frozen=True)
class Stages:
    """The layers of a space of stages. Genes 2i and 2i + 1 are the depth and the width of stage i."""

    space: Space

    @cached_property
    def stem(self) -> LayerSpec:
        space = self.space
        return LayerSpec(Stem, space.channels, space.stem_channels, space.input_size, space.stem_stride, act=space.act)

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """Of each stage's input, and of the last one's output."""
        sizes = [self.stem.out_size]
        for gene in self.space.genes[::2]:
            sizes.append(sizes[-1].strided(gene.stride))
        return tuple(sizes)

    def counts(self, gene: int) -> list[int]:
        """The depths in blocks or widths in channels of a gene's choices, pruned ones included."""
        return [choice.count for choice in self.space.genes[gene].choices]

    def largest(self) -> Arch:
        """Every stage at its largest open depth and width."""
        return tuple(open_[-1] for open_ in self.space.allowed)

    def first(self, stage: int, cin: int, width: int) -> LayerSpec:
        """The first block of a stage."""
        stride = self.space.genes[2 * stage].stride
        return LayerSpec(FirstResidual, cin, width, self.sizes[stage], stride, kernel=3, act=self.space.act)

    def next(self, stage: int, width: int) -> LayerSpec:
        """Each further block of a stage."""
        return LayerSpec(Residual, width, width, self.sizes[stage + 1], kernel=3, act=self.space.act)

    def head(self, cin: int) -> LayerSpec:
        """Pool and classifier."""
        space = self.space
        return LayerSpec(
            PoolHead,
            cin,
            space.classes,
            self.sizes[-1],
            act="none",
            classes=space.classes,
            bias=space.classifier_bias,
        )

    def blocks(self, arch: Arch) -> list[list[LayerSpec]]:
        """The blocks of each stage."""
        stages, cin = [], self.space.stem_channels
        choices = self.space.decode(arch)
        for stage, (depth, width) in enumerate(zip(choices[::2], choices[1::2], strict=True)):
            rest = self.next(stage, width.count)
            stages.append([self.first(stage, cin, width.count), *[rest] * (depth.count - 1)])
            cin = width.count
        return stages

    def pick(self, arch: Arch) -> list[LayerSpec]:
        """Stem, the blocks that run, head."""
        stages = self.blocks(arch)
        return [self.stem, *(spec for stage in stages for spec in stage), self.head(stages[-1][-1].out_channels)]

    def every(self) -> Iterator[LayerSpec]:
        """Every layer that can run at the open depths and widths; with the pruned ones it could be a million."""
        yield self.stem
        inputs = [self.space.stem_channels]
        for stage in range(len(self.space.genes) // 2):
            counts = self.counts(2 * stage + 1)
            widths = [counts[i] for i in self.space.allowed[2 * stage + 1]]
            for width in widths:
                yield from (self.first(stage, cin, width) for cin in inputs)
                yield self.next(stage, width)
            inputs = widths
        yield from map(self.head, inputs)

    def priced(self, price: Price, total: Total = math.fsum) -> Priced:
        """The first block of a stage depends on its width and the one before; the others on depth and width.

        Pruned choices are NaN.
        """
        space = self.space
        tables: list[np.ndarray] = []
        genes: list[tuple[int, ...]] = []
        inputs = {0: space.stem_channels}  # the open widths before a stage, by index
        before: tuple[int, ...] = ()  # the gene that they belong to; the stem has none
        for stage in range(len(space.genes) // 2):
            depth, width = 2 * stage, 2 * stage + 1
            widths = {i: self.counts(width)[i] for i in space.allowed[width]}
            opening = np.full((len(space.genes[width - 2].choices) if before else 1, len(self.counts(width))), np.nan)
            further = np.full((len(self.counts(depth)), len(self.counts(width))), np.nan)
            for w, count in widths.items():
                for i, cin in inputs.items():
                    opening[i, w] = price(self.first(stage, cin, count))
                each = price(self.next(stage, count))
                for d in space.allowed[depth]:
                    further[d, w] = total([each] * (self.counts(depth)[d] - 1))
            tables += [opening if before else opening[0], further]
            genes += [(*before, width), (depth, width)]
            inputs, before = widths, (width,)
        last = np.full(len(self.counts(before[0])), np.nan)
        for i, cin in inputs.items():
            last[i] = price(self.head(cin))
        return Priced([*tables, last], price(self.stem), [*genes, before])


class Slice(nn.Module):
    """The part of a shared module that one architecture runs. Made for one forward pass; it holds no weights itself.

    Args:
        shared: a block or the head, at the largest width.
        own: the layer of the architecture.
    """

    def __init__(self, shared: nn.Module, own: LayerSpec):
        super().__init__()
        self.shared, self.own = shared, own

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.shared, Residual):
            return self.shared.narrow(x, self.own.out_channels)
        return logits(self.shared, x)

    def state_dict(self) -> dict[str, Tensor]:  # type: ignore[override]  # never asked for as part of a module
        """The weights of the stand-alone module: the part of every tensor that runs, by the names used there."""
        with torch.device("meta"):
            shapes = {name: value.shape for name, value in self.own.build().state_dict().items()}
        shared = self.shared.state_dict()
        return {name: value[tuple(map(slice, shapes[name]))] for name, value in shared.items()}


@dataclass(frozen=True)
class ResidualStages:
    """The family of NSS: spaces whose genes are the depth and the width of each stage, alternating."""

    ops = frozenset({"depth", "width"})

    @property
    def presets(self) -> Mapping[str, Callable[..., Space]]:
        return {"residual": residual, "residual-medium": residual_medium, "residual-small": residual_small}

    def layout(self, space: Space) -> Stages:
        """The stages of ``space``; a UserError if its genes are not depths and widths of at least 1."""
        if [choice.op for gene in space.genes for choice in gene.choices[:1]] != ["depth", "width"] * (
            len(space.genes) // 2
        ):
            raise UserError(f"space {space.name}: expected for each stage a gene of depths, then a gene of widths")
        for gene in space.genes:
            for choice in gene.choices:
                if choice.count < 1:
                    raise UserError(
                        f"space {space.name}: gene {gene.name} has the choice {choice.op} {choice.count}, expected a "
                        f"{gene.choices[0].op} of at least 1"
                    )
        return Stages(space)

    def share(self, layout: Stages, **build: Unpack[BuildOptions]) -> Shared:
        """The stages at their largest open depths and widths, and a head for the widest."""
        arch = layout.largest()
        stem = layout.stem.build(**build)
        stages = nn.ModuleList(nn.ModuleList(spec.build(**build) for spec in stage) for stage in layout.blocks(arch))
        return Shared(stem, stages, layout.pick(arch)[-1].build(**build))

    def path(self, layout: Stages, shared: Shared, arch: Arch) -> list[nn.Module]:
        """Stem, and the slices of the shared blocks and head that run for ``arch``."""
        chosen: list[nn.Module] = [shared.stem]
        for blocks, own in zip(shared.layers, layout.blocks(arch), strict=True):
            chosen += map(Slice, blocks.children(), own)  # ends with the shorter one: later blocks do not run
        return [*chosen, Slice(shared.head, layout.pick(arch)[-1])]


FAMILY = ResidualStages()


def require(space: Space) -> None:
    """Refuse a space whose genes are not depths and widths of stages only."""
    if (op := space.genes[0].choices[0].op) not in FAMILY.ops:
        found = "a gene for the resolution" if op == resolutions.OP else "a gene per layer"
        raise UserError(
            f"space {space.name} has {found}, not a depth and a width per stage: expected "
            f"{', '.join(FAMILY.presets)}, or a restriction of one"
        )


def residual(
    channels: int = 3,
    resolution: int = 32,
    classes: int = 10,
    *,
    name: str = "residual",
    depth: int = 16,
    width: int = 512,
    step: int = 1,
    strides: Sequence[int] = (1, 2, 2),
    stem_stride: int = 1,
) -> Space:
    """NSS's expanded space (supplementary A): 3 stages of basic residual blocks, 16 · 512 networks each.

    Args:
        depth: the most blocks of a stage; the fewest are 1.
        width: the most channels of a stage, which can have any multiple of ``step``.
        strides: of the first block of each stage. The paper does not give them; (1, 2, 2) match its 32 GFLOPs.
    """
    depths = tuple(Choice("depth", count=d) for d in range(1, depth + 1))
    widths = tuple(Choice("width", count=w) for w in range(step, width + 1, step))
    genes, cin = [], 16
    for i, stride in enumerate(strides):
        genes += [
            Gene(f"stage{i}.depth", depths, cin, width, stride),
            Gene(f"stage{i}.width", widths, cin, width, stride),
        ]
        cin = width
    return Space(
        name=name,
        channels=channels,
        resolution=resolution,
        classes=classes,
        stem_channels=16,
        stem_stride=stem_stride,
        head_channels=0,
        act="relu",
        genes=tuple(genes),
        allowed=tuple(tuple(range(len(gene.choices))) for gene in genes),
    )


def residual_small(channels: int = 1, resolution: int = 28, classes: int = 10) -> Space:
    """NSS's blocks for 28² and 32² images on a small CPU: up to 4 blocks of 2, 4, … 32 channels. Our preset."""
    return residual(channels, resolution, classes, name="residual-small", depth=4, width=32, step=2, stem_stride=2)


def residual_medium(channels: int = 3, resolution: int = 32, classes: int = 10) -> Space:
    """NSS's space up to 8 blocks of 8, 16, … 128 channels. Our preset."""
    return residual(channels, resolution, classes, name="residual-medium", depth=8, width=128, step=8)
