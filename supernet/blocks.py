"""Candidate blocks, and what each costs.

A :class:`LayerSpec` says what one layer is. Its block class lists the convolutions that the layer consists of
(``convs``) and builds the module from that same list, so multiply-adds, parameters, latency keys and the
network itself cannot disagree. ``lower(space, arch)`` gives the layers of an architecture.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.space import Arch, Space

if TYPE_CHECKING:
    from supernet.residual import Stages
    from supernet.stacks import Stacks

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "hard_swish": nn.Hardswish}


@dataclass(frozen=True)
class Conv:
    """One convolution (a linear layer is a 1×1 one on a 1×1 image) and what follows it."""

    in_channels: int
    out_channels: int
    kernel: int
    size: int  # output height and width
    stride: int = 1
    groups: int = 1
    act: str = "none"
    norm: bool = True
    bias: bool = False
    extra: int = 0  # parameters of what else belongs to it: a BN in front, a PReLU

    @property
    def flops(self) -> int:
        """Multiply-adds for one image."""
        return self.size**2 * self.out_channels * (self.in_channels // self.groups) * self.kernel**2

    @property
    def params(self) -> int:
        """Weights, bias, the BN's scale and shift, and ``extra``."""
        weights = self.out_channels * (self.in_channels // self.groups) * self.kernel**2
        return weights + self.out_channels * (self.bias + 2 * self.norm) + self.extra


@dataclass(frozen=True)
class LayerSpec:
    """One layer as it is built, counted and timed. ``size`` is the height and width of its input."""

    op: str
    in_channels: int
    out_channels: int
    size: int
    stride: int = 1
    kernel: int = 0
    expand: int = 0
    act: str = "relu"
    squeeze_excite: bool = False
    classes: int = 0  # head only
    bias: bool = False  # of a head's classifier or a stem's convolution
    dropout: float = 0.0  # head only
    before: int = 0  # a NASNet cell only: channels of its other input, the output before the last one

    @cached_property
    def key(self) -> str:
        """The name of this layer in a latency table: all that its latency can depend on."""
        parts = [self.op]
        parts += [f"k{self.kernel}"] if self.kernel else []
        parts += [f"e{self.expand}"] if self.expand else []
        parts += [f"s{self.stride}", self.act]
        parts += ["se"] if self.squeeze_excite else []
        parts += [f"b{self.before}"] if self.before else []
        shape = f"{self.in_channels}x{self.size}x{self.size}->{self.out_channels}"
        return "_".join(parts) + f" {shape}" + (f"->{self.classes}" if self.classes else "")

    @property
    def out_size(self) -> int:
        return -(-self.size // self.stride)

    @cached_property
    def convs(self) -> dict[str, Conv]:
        """The convolutions by the name of the submodule that runs them; empty where there are none."""
        return OPS[self.op].convs(self)

    @property
    def runs(self) -> bool:
        """Whether anything is executed: an Identity is not a layer of the network."""
        return self.op != "identity"

    @property
    def flops(self) -> int:
        """Multiply-adds of convolutions and linear layers for one image, as the papers count."""
        return sum(conv.flops for conv in self.convs.values())

    @property
    def params(self) -> int:
        """Trainable parameters of the stand-alone layer, BN's affine ones included."""
        return sum(conv.params for conv in self.convs.values())

    @property
    def activations(self) -> int:
        """Values alive at the peak, for one image: input and output of one convolution (or of the layer, where
        it has none), and what a skip or another branch keeps beside them. BN and activation run in place.
        """
        whole = self.in_channels * self.size**2
        peak = 0 if self.convs else whole + self.out_channels * self.out_size**2
        for name, conv in self.convs.items():
            source = conv.in_channels * (self.size if conv.stride > 1 else conv.size) ** 2
            peak = max(peak, source + conv.out_channels * conv.size**2 + _kept(self, name))
        return peak

    def build(self, affine: bool = True, eps: float = 1e-5, kernels: str = "fused") -> nn.Module:
        """The layer as a module. ``kernels``: ``fused`` runs our operators, ``eager`` plain PyTorch."""
        return OPS[self.op](self, affine=affine, eps=eps, kernels=kernels)


def _kept(spec: LayerSpec, conv: str) -> int:
    """Values that wait, for one image, while the convolution named ``conv`` of the layer runs."""
    whole = spec.in_channels * spec.size**2
    if spec.op == "ib":
        skip = spec.stride == 1 and spec.in_channels == spec.out_channels
        return whole if skip and conv != next(iter(spec.convs)) else 0
    if spec.op in ("shuffle", "xception"):
        if spec.stride == 1:
            return whole // 2  # the half that passes
        if conv == "project_depthwise":
            return 0  # reads what the main branch waits for
        return whole if conv == "project" else spec.in_channels * spec.out_size**2
    if spec.op in ("residual", "residual_first", "basic"):
        # The input waits for the sum, then the main branch for the shortcut.
        return {"first": 0, "second": whole, "shortcut": spec.out_channels * spec.out_size**2}[conv]
    if spec.op == "bottleneck":
        return {"reduce": 0, "shortcut": spec.out_channels * spec.out_size**2}.get(conv, whole)
    if spec.op == "nasnet":  # at the last addition: four of the six parts of the output, both inputs, a branch
        return 7 * spec.out_channels // 6 * spec.out_size**2
    return 0


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation whose statistics can also be pooled exactly over many batches."""

    pool: PooledStatistics | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.pool is None:
            return super().forward(x)
        momentum, self.momentum = self.momentum, 1.0  # running statistics become those of this batch
        try:
            y = super().forward(x)
        finally:
            self.momentum = momentum
        n = x.numel() // x.shape[1]
        self.pool.add(n, self.running_mean, self.running_var * ((n - 1) / n))
        return y

    @torch.no_grad()
    def track(self, mean: Tensor, var: Tensor, n: int) -> None:
        """Take the statistics of a batch that a fused operator computed.

        Args:
            mean, var: ``[C]`` or of the first channels, the biased variance. n: values per channel.
        """
        if self.pool is not None:
            self.pool.add(n, mean, var)
        else:
            c = len(mean)  # of a layer that runs at a part of its width the first channels
            self.running_mean[:c].lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var[:c].lerp_(var.to(self.running_var.dtype) * (n / max(n - 1, 1)), self.momentum)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Inference as ``x * scale + shift``: two vectors ``[C]``."""
        scale = torch.rsqrt(self.running_var + self.eps)
        if self.weight is None:
            return scale, -self.running_mean * scale
        scale = scale * self.weight
        return scale, torch.addcmul(self.bias, self.running_mean, scale, value=-1)


class PooledStatistics:
    """Mean and variance of everything seen, by the parallel update of Chan et al. (1979), in double."""

    def __init__(self, channels: int, device: torch.device):
        self.n = 0
        self.mean = torch.zeros(channels, dtype=torch.double, device=device)
        self.m2 = torch.zeros_like(self.mean)

    def add(self, n: int, mean: Tensor, var: Tensor) -> None:
        """Merge a batch of ``n`` values per channel with this mean and biased variance.

        They may be those of the first channels, each time of the same; then only these are kept.
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


class ConvBN(nn.Module):
    """Convolution, BN, activation: plain modules; our operator normalises and activates in one where it can."""

    def __init__(self, spec: Conv, affine: bool, eps: float, kernels: str):
        super().__init__()
        self.conv = nn.Conv2d(
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
        if self.kernels == "eager":
            return self.act(self.bn(self.conv(x)))
        if not self.bn.training:
            scale, shift = self.bn.folded()
            if self.conv.bias is not None:
                shift = torch.addcmul(shift, self.conv.bias, scale)
            weight = self.conv.weight * scale.view(-1, 1, 1, 1)
            return self.act(F.conv2d(x, weight, shift, self.conv.stride, self.conv.padding, groups=self.conv.groups))
        from supernet import ops  # only here and in Separable is the extension needed

        x = self.conv(x)
        y, stats = ops.batch_norm_act_train(x, self.bn.weight, self.bn.bias, eps=self.bn.eps, act=self.act_name)
        self.bn.track(*stats, y.numel() // y.shape[1])
        return y


class Separable(nn.Module):
    """Depthwise convolution, BN, activation, pointwise convolution, BN, activation: one fused operator.

    The submodules are plain; ``kernels="eager"`` runs them one by one.
    """

    def __init__(self, depthwise: Conv, pointwise: Conv, affine: bool, eps: float, kernels: str):
        super().__init__()
        self.depthwise = ConvBN(depthwise, affine, eps, kernels)
        self.pointwise = ConvBN(pointwise, affine, eps, kernels)
        self.acts = {"mid_act": depthwise.act, "out_act": pointwise.act}
        self.stride = depthwise.stride
        self.kernels = kernels

    def forward(self, x: Tensor) -> Tensor:
        if self.kernels == "eager":
            return self.pointwise(self.depthwise(x))
        from supernet import ops

        dw, pw = self.depthwise, self.pointwise
        if not dw.bn.training:
            folded = (dw.conv.weight, *dw.bn.folded(), pw.conv.weight, *pw.bn.folded())
            return ops.dw_separable(x, *folded, stride=self.stride, **self.acts)
        y, dw_stats, pw_stats = ops.dw_separable_train(
            x,
            *(dw.conv.weight, dw.bn.weight, dw.bn.bias),
            *(pw.conv.weight, pw.bn.weight, pw.bn.bias),
            eps=dw.bn.eps,
            stride=self.stride,
            **self.acts,
        )
        n = y.numel() // y.shape[1]  # the depthwise output has the same batch and size
        dw.bn.track(*dw_stats, n)
        pw.bn.track(*pw_stats, n)
        return y


class SqueezeExcite(nn.Module):
    """Global pool, two 1×1 convolutions, hard-sigmoid gate (MobileNetV3)."""

    def __init__(self, reduce: Conv, expand: Conv):
        super().__init__()
        self.reduce = nn.Conv2d(reduce.in_channels, reduce.out_channels, 1)
        self.expand = nn.Conv2d(expand.in_channels, expand.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))
        return x * F.hardsigmoid(self.expand(gate))


class InvertedBottleneck(nn.Module):
    """MobileNetV2: expand, depthwise, project; a skip iff the shape is kept; no expansion at e = 1."""

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        cin, mid, cout, size = (
            spec.in_channels,
            spec.in_channels * spec.expand,
            spec.out_channels,
            spec.out_size,
        )
        convs = {}
        if spec.expand > 1:
            convs["expand"] = Conv(cin, mid, 1, spec.size, act=spec.act)
        convs["depthwise"] = Conv(mid, mid, spec.kernel, size, spec.stride, groups=mid, act=spec.act)
        if spec.squeeze_excite:
            squeezed = max(8, mid // 4)
            convs["reduce"] = Conv(mid, squeezed, 1, 1, act="relu", norm=False, bias=True)
            convs["excite"] = Conv(squeezed, mid, 1, 1, norm=False, bias=True)
        convs["project"] = Conv(mid, cout, 1, size)
        return convs

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__()
        convs = self.convs(spec)
        self.expand = ConvBN(convs["expand"], affine, eps, kernels) if "expand" in convs else nn.Identity()
        if spec.squeeze_excite:
            self.separable = nn.Sequential(
                ConvBN(convs["depthwise"], affine, eps, kernels),
                SqueezeExcite(convs["reduce"], convs["excite"]),
                ConvBN(convs["project"], affine, eps, kernels),
            )
        else:
            self.separable = Separable(convs["depthwise"], convs["project"], affine, eps, kernels)
        self.skip = spec.stride == 1 and spec.in_channels == spec.out_channels
        # Squeeze-and-excite needs all of the depthwise output before any of it is projected: not one operator.
        self.fused = kernels == "fused" and spec.expand > 1 and not spec.squeeze_excite

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            return self.operator(x)
        y = self.separable(self.expand(x))
        return x + y if self.skip else y

    def operator(self, x: Tensor) -> Tensor:
        from supernet import ops

        convs = self.expand, self.separable.depthwise, self.separable.pointwise
        options = {"residual": self.skip, "stride": self.separable.stride, "act": self.expand.act_name}
        if not self.expand.bn.training:
            folded = (t for c in convs for t in (c.conv.weight, *c.bn.folded()))
            return ops.inverted_bottleneck(x, *folded, **options)
        parameters = (t for c in convs for t in (c.conv.weight, c.bn.weight, c.bn.bias))
        y, *stats = ops.inverted_bottleneck_train(x, *parameters, eps=self.expand.bn.eps, **options)
        for conv, pixels_of, batch_stats in zip(convs, (x, y, y), stats, strict=True):
            conv.bn.track(*batch_stats, pixels_of.numel() // pixels_of.shape[1])
        return y


class Shuffle(nn.Module):
    """SPOS's ShuffleNetV2 block with a k×k depthwise convolution (``choice_3/5/7``).

    At stride 1 the even channels pass through and the odd ones are computed; at stride 2 both branches see
    the whole input.
    """

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

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__()
        convs = self.convs(spec)
        project = [convs.pop("project_depthwise"), convs.pop("project")] if spec.stride == 2 else None
        self.project = Separable(*project, affine, eps, kernels) if project else None
        # Every depthwise convolution is followed by a pointwise one: the two are one fused operator.
        layers, chain = [], list(convs.values())
        while chain:
            conv = chain.pop(0)
            depthwise = conv.groups > 1
            layers.append(
                Separable(conv, chain.pop(0), affine, eps, kernels) if depthwise else ConvBN(conv, affine, eps, kernels)
            )
        self.branch = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.project is not None:
            return torch.cat((self.project(x), self.branch(x)), 1)
        return torch.cat((x[:, 0::2], self.branch(x[:, 1::2].contiguous(memory_format=torch.channels_last))), 1)


class Xception(Shuffle):
    """SPOS's ``choice_x``: three separable convolutions with 3×3 kernels in the main branch."""

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


class Identity(nn.Identity):
    """The layer is left out."""

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        return {}

    def __init__(self, spec: LayerSpec, **_):
        super().__init__()


class MaxPool(nn.MaxPool2d):
    """k×k maximum: no weights."""

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        return {}

    def __init__(self, spec: LayerSpec, **_):
        super().__init__(spec.kernel, spec.stride, spec.kernel // 2)


class Stem(ConvBN):
    """3×3 convolution, BN, activation."""

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        cin, cout = spec.in_channels, spec.out_channels
        return {"conv": Conv(cin, cout, 3, spec.out_size, spec.stride, act=spec.act, bias=spec.bias)}

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__(self.convs(spec)["conv"], affine, eps, kernels)


class Head(nn.Module):
    """1×1 convolution, BN, activation, global average pool, dropout, linear."""

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        return {
            "conv": Conv(spec.in_channels, spec.out_channels, 1, spec.size, act=spec.act),
            "classifier": Conv(spec.out_channels, spec.classes, 1, 1, norm=False, bias=spec.bias),
        }

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__()
        self.conv = ConvBN(self.convs(spec)["conv"], affine, eps, kernels)
        self.dropout = nn.Dropout(spec.dropout)
        self.classifier = nn.Linear(spec.out_channels, spec.classes, bias=spec.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.conv(x), 1).flatten(1)
        return self.classifier(self.dropout(x))


OPS: dict[str, type[nn.Module]] = {
    "stem": Stem,
    "ib": InvertedBottleneck,
    "shuffle": Shuffle,
    "xception": Xception,
    "identity": Identity,
    "max_pool": MaxPool,
    "head": Head,
}

# Stem and head of the families that have their own, by the first choice of their first gene.
ENDS: dict[str, tuple[str, str]] = {}


Price = Callable[[LayerSpec], float]


@dataclass(frozen=True)
class Layers:
    """Every layer of a space: ``choices[i][j]`` is choice ``j`` of gene ``i``, open or pruned."""

    stem: LayerSpec
    choices: tuple[tuple[LayerSpec, ...], ...]
    head: LayerSpec

    def pick(self, arch: Arch) -> list[LayerSpec]:
        """Stem, the chosen layers, head."""
        return [self.stem, *(layer[i] for layer, i in zip(self.choices, arch, strict=True)), self.head]

    def every(self) -> Iterator[LayerSpec]:
        """All that could run, pruned choices too."""
        return itertools.chain((self.stem,), *self.choices, (self.head,))

    def priced(self, price: Price) -> tuple[list[list[float]], float, None]:
        """What each decision costs, as ``search.costs.AdditiveCost`` takes it: table, base, genes of the tables."""
        return [[price(s) for s in choices] for choices in self.choices], price(self.stem) + price(self.head), None


def layers(space: Space) -> Layers | Stages | Stacks:
    """Lay ``space`` out: sizes follow from the strides, whatever is chosen."""
    if space.staged:
        from supernet.residual import Stages  # built of this module's classes

        return Stages(space)
    if space.stacked:
        from supernet.stacks import Stacks

        return Stacks(space)
    stem_op, head_op = ENDS.get(space.genes[0].choices[0].op, ("stem", "head"))
    stem = LayerSpec(stem_op, space.channels, space.stem_channels, space.resolution, space.stem_stride, act=space.act)
    size, choices = stem.out_size, []
    for gene in space.genes:
        choices.append(
            tuple(
                LayerSpec(
                    choice.op,
                    gene.in_channels,
                    gene.out_channels,
                    size,
                    gene.stride,
                    choice.kernel,
                    choice.expand,
                    space.act,
                    space.squeeze_excite and choice.op == "ib",
                )
                for choice in gene.choices
            )
        )
        size = choices[-1][0].out_size
    head = LayerSpec(
        head_op,
        space.genes[-1].out_channels,
        space.head_channels,
        size,
        act=space.act,
        classes=space.classes,
        bias=space.classifier_bias,
        dropout=space.dropout,
    )
    return Layers(stem, tuple(choices), head)


def lower(space: Space, arch: Arch) -> list[LayerSpec]:
    """The layers that run for ``arch``, in order; an Identity runs nothing and is left out."""
    return [spec for spec in layers(space).pick(arch) if spec.runs]


def additive(space: Space, count: Literal["flops", "params"]) -> tuple[int, list[list[int]]]:
    """What each decision adds to a count: that of stem and head, and of choice ``j`` of gene ``i`` at ``[i][j]``."""
    all_layers = layers(space)
    base = getattr(all_layers.stem, count) + getattr(all_layers.head, count)
    return base, [[getattr(spec, count) for spec in choices] for choices in all_layers.choices]


def peaks(space: Space) -> tuple[int, list[list[int]]]:
    """Peak activations of stem and head, and of choice ``j`` of gene ``i`` at ``[i][j]``; 0 where nothing runs."""
    all_layers = layers(space)
    table = [[spec.activations if spec.runs else 0 for spec in choices] for choices in all_layers.choices]
    return max(all_layers.stem.activations, all_layers.head.activations), table


def flops(space: Space, arch: Arch) -> int:
    """Multiply-adds for one image."""
    return sum(spec.flops for spec in lower(space, arch))


def activations(space: Space, arch: Arch) -> int:
    """Values alive at the peak, for one image: the largest of any layer."""
    return max(spec.activations for spec in lower(space, arch))


def params(space: Space, arch: Arch) -> int:
    """Parameters of the stand-alone network."""
    return sum(spec.params for spec in lower(space, arch))
