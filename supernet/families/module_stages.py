"""Stages of identical modules whose numbers are searched: the networks of Stage-Wise NAS.

Jordao et al., "Stage-Wise Neural Architecture Search", §III. A space has one gene for each stage, whose choices are
numbers of modules: residual ones (CIFAR ResNet v1), bottlenecks (ResNet-50) or the cells of NASNet-A.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor, nn

from supernet.convolution import Conv2d
from supernet.errors import UserError
from supernet.families import nasnet
from supernet.families.base import Priced, Shared, Total
from supernet.families.nasnet import CellHead, NASNetModule
from supernet.modules import ACTIVATIONS, ConvBN, PoolHead, Stem, kept_for_sum
from supernet.quantities import several
from supernet.size import Size
from supernet.space import Arch, Choice, Gene, Space
from supernet.spec import Block, BuildOptions, Conv, LayerSpec, Price

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Basic(Block, nn.Module):
    """ResNet v1's module as in Keras's CIFAR networks: conv–BN–ReLU–conv–BN, plus the input, ReLU.

    Convolutions have biases; where the shape changes, the input goes through a 1×1 convolution without BN.
    """

    op, added = "basic", "second"
    kept = staticmethod(kept_for_sum)

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        cin, cout, size = spec.in_channels, spec.out_channels, spec.out_size
        convs = {
            "first": Conv(cin, cout, 3, size, spec.stride, act=spec.act, bias=True),
            "second": Conv(cout, cout, 3, size, bias=True),
        }
        if spec.stride > 1 or cin != cout:
            convs["shortcut"] = Conv(cin, cout, 1, size, spec.stride, norm=False, bias=True)
        return convs

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__()
        convs = self.convs(spec)
        self.first = ConvBN(convs["first"], affine, eps, kernels)
        self.second = ConvBN(convs["second"], affine, eps, kernels)
        cin, cout = spec.in_channels, spec.out_channels
        self.shortcut = Conv2d(cin, cout, 1, spec.stride) if "shortcut" in convs else nn.Identity()
        self.addition = nn.Identity()  # importance is measured here
        self.act = ACTIVATIONS[spec.act](inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.addition(self.second(self.first(x)) + self.shortcut(x)))


class Bottleneck(Block, nn.Module):
    """ResNet-50's module as in torchvision and timm: 1×1, 3×3 with the stride, 1×1 to four times the channels."""

    op, added = "bottleneck", "expand"
    kept = staticmethod(kept_for_sum)

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        cin, mid, cout, size = spec.in_channels, spec.out_channels // 4, spec.out_channels, spec.out_size
        convs = {
            "reduce": Conv(cin, mid, 1, spec.size, act=spec.act),
            "spatial": Conv(mid, mid, 3, size, spec.stride, act=spec.act),
            "expand": Conv(mid, cout, 1, size),
        }
        if spec.stride > 1 or cin != cout:
            convs["shortcut"] = Conv(cin, cout, 1, size, spec.stride)
        return convs

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__()
        convs = {name: ConvBN(conv, affine, eps, kernels) for name, conv in self.convs(spec).items()}
        self.reduce, self.spatial, self.expand = convs["reduce"], convs["spatial"], convs["expand"]
        self.shortcut = convs.get("shortcut", nn.Identity())
        self.addition = nn.Identity()
        self.act = ACTIVATIONS[spec.act](inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.addition(self.expand(self.spatial(self.reduce(x))) + self.shortcut(x)))


class ImageNetStem(Block, ConvBN):
    """7×7 convolution of stride 2, BN, activation, 3×3 max pooling of stride 2."""

    op = "imagenet_stem"

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        return {"conv": Conv(spec.in_channels, spec.out_channels, 7, spec.size.strided(2), 2, act=spec.act)}

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__(self.convs(spec)["conv"], affine, eps, kernels)
        self.pool = nn.MaxPool2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(super().forward(x))


@dataclass(frozen=True)
class Kind:
    """A kind of module and what its networks need; channels are multiples of the width, which doubles every stage."""

    block: type[Block]
    stem_channels: int
    out_channels: int
    head: type[Block] = PoolHead
    fewest: int = 1  # modules in a stage
    step: int = 2  # δ, the paper's growth step
    stem_bias: bool = False
    stem_act: bool = True  # False: the first module begins with the activation
    modules: Callable[[list[LayerSpec]], list[LayerSpec]] = list  # completes the modules of a stage


KINDS = {
    "residual": Kind(Basic, 1, 1, stem_bias=True),
    "bottleneck": Kind(Bottleneck, 1, 4),
    "nasnet": Kind(  # from the third cell on, all of a stage are alike
        NASNetModule, 3, 6, CellHead, fewest=2, step=1, stem_act=False, modules=nasnet.with_inputs
    ),
}


def kind_of(module: str) -> Kind:
    """The kind of module by its name; a UserError lists the names."""
    if module not in KINDS:
        raise UserError(f"expected a module among {', '.join(KINDS)}, got {module!r}")
    return KINDS[module]


def space(
    module: str,
    channels: int,
    resolution: int,
    classes: int,
    *,
    width: int = 16,
    stages: int = 3,
    stem_stride: int = 1,
    deepest: int = 18,
) -> Space:
    """All networks of ``stages`` stages of up to ``deepest`` modules each.

    Args:
        module: a name in ``KINDS``.
        width: channels of the first stage's convolutions (the narrow ones of a bottleneck, F of a cell); each later
            stage has twice as many as the one before.
        stem_stride: 1 or 2; 4 is ResNet-50's 7×7 convolution and pooling.

    Raises:
        UserError: an unknown module, or sizes that no network can have.
    """
    kind = kind_of(module)
    for name, value, expected, fine in (
        ("width", width, "at least 1, and even for nasnet", width >= 1 and not (module == "nasnet" and width % 2)),
        ("stages", stages, "at least 1", stages >= 1),
        ("stem stride", stem_stride, "1, 2 or 4", stem_stride in (1, 2, 4)),
        ("modules in a stage", deepest, f"at least {kind.fewest} of {module}", deepest >= kind.fewest),
    ):
        if not fine:
            raise UserError(f"{name} {value}: expected {expected}")
    choices = tuple(Choice(kind.block.op, count=count) for count in range(kind.fewest, deepest + 1))
    widths = [kind.stem_channels * width, *(kind.out_channels * width * 2**i for i in range(stages))]
    return Space(
        name=f"{module}-{stages}x{width}",
        channels=channels,
        resolution=resolution,
        classes=classes,
        stem_channels=widths[0],
        stem_stride=stem_stride,
        head_channels=widths[-1],
        act="relu",
        genes=tuple(
            Gene(f"stage{i + 1}", choices, widths[i], widths[i + 1], 1 if i == 0 else 2) for i in range(stages)
        ),
        allowed=(tuple(range(len(choices))),) * stages,
    )


def arch(space: Space, modules: Sequence[int]) -> Arch:
    """The architecture with these numbers of modules."""
    fewest, deepest = (space.genes[0].choices[end].count for end in (0, -1))
    if len(modules) != len(space.genes) or not all(fewest <= count <= deepest for count in modules):
        raise UserError(
            f"space {space.name} has {several(len(space.genes), 'stage')} of {fewest} to {deepest} modules, "
            f"asked for {'-'.join(map(str, modules))}"
        )
    return tuple(count - fewest for count in modules)


def depths(space: Space, arch: Arch) -> tuple[int, ...]:
    """The number of modules of each stage."""
    return tuple(choice.count for choice in space.decode(arch))


@dataclass(frozen=True)
class Stages:
    """The layers of a space whose genes are numbers of modules of one kind."""

    space: Space
    kind: Kind

    @cached_property
    def stem(self) -> LayerSpec:
        space = self.space
        return LayerSpec(
            ImageNetStem if space.stem_stride == 4 else Stem,
            space.channels,
            space.stem_channels,
            space.input_size,
            space.stem_stride,
            act=space.act if self.kind.stem_act else "none",
            bias=self.kind.stem_bias,
        )

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """Of each stage's input, and of the last one's output."""
        sizes = [self.stem.out_size]
        for gene in self.space.genes:
            sizes.append(sizes[-1].strided(gene.stride))
        return tuple(sizes)

    @cached_property
    def head(self) -> LayerSpec:
        space = self.space
        return LayerSpec(
            self.kind.head,
            space.head_channels,
            space.classes,
            self.sizes[-1],
            act="none",
            classes=space.classes,
            bias=space.classifier_bias,
        )

    def stage(self, number: int, depth: int) -> list[LayerSpec]:
        """The modules of a stage, counted from 0. Only the first ones depend on what comes before them."""
        gene = self.space.genes[number]
        cin, cout, block = gene.in_channels, gene.out_channels, self.kind.block
        size, act = self.sizes[number + 1], self.space.act
        modules = [LayerSpec(block, cin, cout, self.sizes[number], gene.stride, act=act)]
        modules += [LayerSpec(block, cout, cout, size, act=act)] * (depth - 1)
        return self.kind.modules(modules)

    def pick(self, arch: Arch) -> list[LayerSpec]:
        """Stem, the modules of each stage, head."""
        stages = (self.stage(i, depth) for i, depth in enumerate(depths(self.space, arch)))
        return [self.stem, *(spec for stage in stages for spec in stage), self.head]

    def every(self) -> Iterator[LayerSpec]:
        """Every layer that can run."""
        yield self.stem
        for number, gene in enumerate(self.space.genes):
            yield from dict.fromkeys(self.stage(number, gene.choices[-1].count))
        yield self.head

    def priced(self, price: Price, total: Total = math.fsum) -> Priced:
        """A table for each stage; stem and head are the base."""
        table = [
            [total(map(price, self.stage(number, choice.count))) for choice in gene.choices]
            for number, gene in enumerate(self.space.genes)
        ]
        return Priced(table, total((price(self.stem), price(self.head))), None)


@dataclass(frozen=True)
class ModuleStages:
    """A family of Stage-Wise NAS: networks that are trained one by one, without a supernet."""

    kind: Kind

    @property
    def ops(self) -> frozenset[str]:
        return frozenset({self.kind.block.op})

    @property
    def presets(self) -> Mapping[str, Callable[..., Space]]:
        return {}

    def layout(self, space: Space) -> Stages:
        """The stages of ``space``."""
        return Stages(space, self.kind)

    def share(self, layout: Stages, **build: Unpack[BuildOptions]) -> Shared:
        """Raises UserError: such a space has no supernet."""
        raise UserError(
            f"space {layout.space.name} is searched network by network, by Stage-Wise NAS: it has no supernet"
        )

    def path(self, layout: Stages, shared: Shared, arch: Arch) -> list[nn.Module]:
        """Never reached: nothing is shared."""
        raise NotImplementedError


FAMILIES = tuple(ModuleStages(kind) for kind in KINDS.values())


def require(space: Space) -> None:
    """Refuse a space whose genes are not numbers of modules, with a UserError."""
    if not any(space.genes[0].choices[0].op in family.ops for family in FAMILIES):
        raise UserError(f"space {space.name} is not one of stages of modules, such as {', '.join(KINDS)}")
