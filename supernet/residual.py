"""Stages of residual blocks whose depths and widths are searched: NSS's expanded space and its weight sharing.

Every stage of the supernet is built once, at its largest depth and width. A width w is the first w channels of each
kernel, a depth d the output of the d-th block; blocks behind it do not run (NSS, supplementary C; FBNetV2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.blocks import ACTIVATIONS, OPS, Conv, ConvBN, LayerSpec, Price
from supernet.errors import UserError
from supernet.space import Arch, Space


class Residual(nn.Module):
    """Basic block of He et al.: conv–BN–ReLU–conv–BN, plus the input, ReLU.

    ``residual_first`` opens a stage: there the input passes a 1×1 convolution and BN, whatever its shape.
    """

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        cin, cout, size = spec.in_channels, spec.out_channels, spec.out_size
        convs = {
            "first": Conv(cin, cout, 3, size, spec.stride, act=spec.act),
            "second": Conv(cout, cout, 3, size),
        }
        if spec.op == "residual_first":
            convs["shortcut"] = Conv(cin, cout, 1, size, spec.stride)
        return convs

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
            mask: ``[width]``, ≥ 0: multiplies the channels after each BN and ReLU, that is here in front of the
                ReLU, which is the same: m · ReLU(z) = ReLU(m · z).
        """
        y = narrow(self.second, narrow(self.first, x, width, mask), width, mask)
        if isinstance(self.shortcut, ConvBN):
            return self.act(y + narrow(self.shortcut, x, width, mask))
        return self.act(y + x if mask is None else torch.addcmul(y, x, mask.view(-1, 1, 1)))


class PoolHead(nn.Module):
    """Global average pool, linear."""

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        return {"classifier": Conv(spec.in_channels, spec.classes, 1, 1, norm=False, bias=spec.bias)}

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__()
        self.classifier = nn.Linear(spec.in_channels, spec.classes, bias=spec.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Of a wider head the columns for x's channels: ``[B, w, H, W]`` to ``[B, classes]``."""
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        weight = self.classifier.weight
        return F.linear(x, weight if x.shape[1] == weight.shape[1] else weight[:, : x.shape[1]], self.classifier.bias)


OPS.update(residual=Residual, residual_first=Residual, pool_head=PoolHead)


def narrow(layer: ConvBN, x: Tensor, width: int, mask: Tensor | None = None) -> Tensor:
    """Convolution, BN, activation with the first ``width`` outputs of ``layer`` and x's inputs.

    ``mask`` ``[width]`` ≥ 0 multiplies the output. BN would cancel it if it stood before the batch's statistics; behind
    them it joins BN's scale and shift, and passes the activation, which is ReLU or none.
    """
    conv, bn = layer.conv, layer.bn
    options = {"stride": conv.stride[0], "padding": conv.padding[0]}
    gamma, beta = (None, None) if bn.weight is None else (bn.weight[:width], bn.bias[:width])
    if mask is not None:
        gamma = mask if gamma is None else gamma * mask
        beta = torch.zeros_like(mask) if beta is None else beta * mask
    if layer.kernels == "eager":
        y = F.conv2d(x, conv.weight[:width, : x.shape[1]], **options)
        if bn.training:
            n = y.numel() // width
            mean, var = (torch.zeros(width, dtype=y.dtype, device=y.device) for _ in range(2))
            y = F.batch_norm(
                y, mean, var, gamma, beta, True, momentum=1.0, eps=bn.eps
            )  # fills in the batch's statistics
            bn.track(mean, var * ((n - 1) / n), n)
        else:
            y = F.batch_norm(y, bn.running_mean[:width], bn.running_var[:width], gamma, beta, eps=bn.eps)
        return layer.act(y)
    from supernet import ops  # only here is the extension needed

    if not bn.training:
        scale, shift = (v[:width] if mask is None else v[:width] * mask for v in bn.folded())
        y = ops.masked_conv2d(x, conv.weight, out_channels=width, coefficients=scale, **options)
        return layer.act(y + shift.view(-1, 1, 1))
    y = ops.masked_conv2d(x, conv.weight, out_channels=width, **options)
    y, stats = ops.batch_norm_act_train(y, gamma, beta, eps=bn.eps, act=layer.act_name)
    bn.track(*stats, y.numel() // width)
    return y


@dataclass(frozen=True)
class Stages:
    """The layers of a space of stages. Genes 2i and 2i + 1 are the depth and the width of stage i."""

    space: Space

    @cached_property
    def stem(self) -> LayerSpec:
        space = self.space
        return LayerSpec(
            "stem", space.channels, space.stem_channels, space.resolution, space.stem_stride, act=space.act
        )

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Height and width of each stage's input, and of the last one's output."""
        sizes = [self.stem.out_size]
        for gene in self.space.genes[::2]:
            sizes.append(-(-sizes[-1] // gene.stride))
        return tuple(sizes)

    def counts(self, gene: int) -> list[int]:
        """Depths in blocks or widths in channels that the choices of a gene stand for, pruned ones too."""
        return [choice.count for choice in self.space.genes[gene].choices]

    def largest(self) -> Arch:
        """Every stage as deep and as wide as it may still be."""
        return tuple(open_[-1] for open_ in self.space.allowed)

    def first(self, stage: int, cin: int, width: int) -> LayerSpec:
        """The block that opens a stage."""
        stride = self.space.genes[2 * stage].stride
        return LayerSpec("residual_first", cin, width, self.sizes[stage], stride, kernel=3, act=self.space.act)

    def next(self, stage: int, width: int) -> LayerSpec:
        """Each further block of a stage."""
        return LayerSpec("residual", width, width, self.sizes[stage + 1], kernel=3, act=self.space.act)

    def head(self, cin: int) -> LayerSpec:
        """Pool and classifier."""
        space = self.space
        return LayerSpec(
            "pool_head",
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
        """All that can run at the depths and widths that are open: a space's pruned pairs would be a million."""
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

    def priced(self, price: Price) -> tuple[list[np.ndarray], float, list[tuple[int, ...]]]:
        """What the decisions cost, as ``search.costs.AdditiveCost`` takes it: tables, base, genes of each table.

        A stage's opening block depends on the width before and its own; the further ones on depth and width.
        Pruned choices are NaN.
        """
        space, tables, genes = self.space, [], []
        inputs, before = {0: space.stem_channels}, ()  # open widths by index, and the gene they belong to
        for stage in range(len(space.genes) // 2):
            depth, width = 2 * stage, 2 * stage + 1
            widths = {i: self.counts(width)[i] for i in space.allowed[width]}
            opening = np.full((len(space.genes[width - 2].choices) if before else 1, len(self.counts(width))), np.nan)
            further = np.full((len(self.counts(depth)), len(self.counts(width))), np.nan)
            for w, count in widths.items():
                for i, cin in inputs.items():
                    opening[i, w] = price(self.first(stage, cin, count))
                further[list(space.allowed[depth]), w] = price(self.next(stage, count))
            further *= np.array(self.counts(depth))[:, None] - 1
            tables += [opening if before else opening[0], further]
            genes += [(*before, width), (depth, width)]
            inputs, before = widths, (width,)
        last = np.full(len(self.counts(before[0])), np.nan)
        for i, cin in inputs.items():
            last[i] = price(self.head(cin))
        return [*tables, last], price(self.stem), [*genes, before]

    def build(self, **options) -> tuple[nn.ModuleList, nn.Module]:
        """The shared stages and the shared head, at the largest open depths and widths."""
        arch = self.largest()
        stages = nn.ModuleList(nn.ModuleList(spec.build(**options) for spec in stage) for stage in self.blocks(arch))
        return stages, self.pick(arch)[-1].build(**options)


class Slice(nn.Module):
    """A shared module as one architecture runs it. It lives as long as a forward pass and owns nothing.

    Args:
        shared: a block or the head of the largest width.
        own: what it is in the architecture.
    """

    def __init__(self, shared: nn.Module, own: LayerSpec):
        super().__init__()
        self.shared, self.own = shared, own

    def forward(self, x: Tensor) -> Tensor:
        return self.shared.narrow(x, self.own.out_channels) if isinstance(self.shared, Residual) else self.shared(x)

    def state_dict(self) -> dict[str, Tensor]:
        """Of the stand-alone module: of every tensor the part that runs, by the names that it has there."""
        with torch.device("meta"):
            shapes = {name: value.shape for name, value in self.own.build().state_dict().items()}
        shared = self.shared.state_dict()
        return {name: value[tuple(map(slice, shapes[name]))] for name, value in shared.items()}


def path(space: Space, stages: nn.ModuleList, head: nn.Module, arch: Arch) -> list[Slice]:
    """The slices of the shared blocks and head that run for ``arch``."""
    specs = Stages(space)
    chosen = []
    for shared, own in zip(stages, specs.blocks(arch), strict=True):
        chosen += map(Slice, shared, own)  # ends with the shorter one: deeper blocks do not run
    return [*chosen, Slice(head, specs.pick(arch)[-1])]


def require_staged(space: Space) -> None:
    """Refuse a space whose genes are layers."""
    if not space.staged:
        raise UserError(
            f"space {space.name} has a gene per layer, not a depth and a width per stage: use --space residual-small, "
            "residual-medium or residual"
        )
