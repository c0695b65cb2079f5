"""Stages of identical modules whose numbers are searched: the networks of Stage-Wise NAS, and weights from deeper ones.

Jordao et al., "Stage-Wise Neural Architecture Search", §III. A space has one gene for each stage, whose choices are
numbers of modules: residual ones (CIFAR ResNet v1), bottlenecks (ResNet-50) or the cells of NASNet-A.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor, nn

from supernet import nasnet
from supernet.blocks import ACTIVATIONS, OPS, Conv, ConvBN, LayerSpec, Price
from supernet.errors import UserError
from supernet.residual import PoolHead
from supernet.space import Arch, Choice, Gene, Space

if TYPE_CHECKING:
    from supernet.model import Network


class Basic(nn.Module):
    """ResNet v1's module as the CIFAR networks of Keras have it: conv–BN–ReLU–conv–BN, plus the input, ReLU.

    Convolutions have biases; where the shape changes, the input passes a 1×1 convolution without BN.
    """

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
        self.shortcut = nn.Conv2d(cin, cout, 1, spec.stride) if "shortcut" in convs else nn.Identity()
        self.addition = nn.Identity()  # what importance looks at
        self.act = ACTIVATIONS[spec.act](inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.addition(self.second(self.first(x)) + self.shortcut(x)))


class Bottleneck(nn.Module):
    """ResNet-50's module as torchvision and timm have it: 1×1, 3×3 with the stride, 1×1 to four times the channels."""

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


class ImageNetStem(ConvBN):
    """7×7 convolution of stride 2, BN, activation, 3×3 maximum of stride 2."""

    @staticmethod
    def convs(spec: LayerSpec) -> dict[str, Conv]:
        return {"conv": Conv(spec.in_channels, spec.out_channels, 7, -(-spec.size // 2), 2, act=spec.act)}

    def __init__(self, spec: LayerSpec, affine: bool, eps: float, kernels: str):
        super().__init__(self.convs(spec)["conv"], affine, eps, kernels)
        self.pool = nn.MaxPool2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(super().forward(x))


class CellHead(PoolHead):
    """ReLU behind the last cell, global average pool, linear."""

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        return super().forward(x[1].relu())


OPS.update(basic=Basic, bottleneck=Bottleneck, imagenet_stem=ImageNetStem, nasnet_head=CellHead)


@dataclass(frozen=True)
class Family:
    """What a kind of module needs around it; channels in multiples of the width, which doubles at each stage."""

    op: str
    stem_channels: int
    out_channels: int
    fewest: int = 1  # modules in a stage
    step: int = 2  # δ, the paper's growth step


MODULES = {
    "residual": Family("basic", 1, 1),
    "bottleneck": Family("bottleneck", 1, 4),
    "nasnet": Family("nasnet", 3, 6, fewest=2, step=1),  # from the third cell on, all of a stage are alike
}


def family(module: str) -> Family:
    """The kind of module by its name; a UserError lists the names."""
    if module not in MODULES:
        raise UserError(f"expected a module among {', '.join(MODULES)}, got {module!r}")
    return MODULES[module]


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
        module: a name in ``MODULES``.
        width: channels of the first stage's convolutions (of a bottleneck the narrow ones, of a cell F); the
            others have twice as many as the one before.
        stem_stride: 1 or 2; 4 is ResNet-50's 7×7 convolution and pooling.

    Raises:
        UserError: an unknown module, or sizes that make no network.
    """
    kind = family(module)
    for name, value, expected, fine in (
        ("width", width, "at least 1, and even for nasnet", width >= 1 and not (module == "nasnet" and width % 2)),
        ("stages", stages, "at least 1", stages >= 1),
        ("stem stride", stem_stride, "1, 2 or 4", stem_stride in (1, 2, 4)),
        ("modules in a stage", deepest, f"at least {kind.fewest} of {module}", deepest >= kind.fewest),
    ):
        if not fine:
            raise UserError(f"{name} {value}: expected {expected}")
    choices = tuple(Choice(kind.op, count=count) for count in range(kind.fewest, deepest + 1))
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
            f"space {space.name} has {len(space.genes)} stages of {fewest} to {deepest} modules, "
            f"asked for {'-'.join(map(str, modules))}"
        )
    return tuple(count - fewest for count in modules)


def depths(space: Space, arch: Arch) -> tuple[int, ...]:
    """The number of modules of each stage."""
    return tuple(choice.count for choice in space.decode(arch))


@dataclass(frozen=True)
class Stacks:
    """The layers of a space whose genes are stages."""

    space: Space

    @cached_property
    def stem(self) -> LayerSpec:
        space = self.space
        large, cells = space.stem_stride == 4, space.genes[0].choices[0].op == "nasnet"
        return LayerSpec(
            "imagenet_stem" if large else "stem",
            space.channels,
            space.stem_channels,
            space.resolution,
            space.stem_stride,
            act="none" if cells else space.act,  # a cell begins with the activation
            bias=space.genes[0].choices[0].op == "basic",
        )

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Height and width of each stage's input, and of the last one's output."""
        sizes = [self.stem.out_size]
        for gene in self.space.genes:
            sizes.append(-(-sizes[-1] // gene.stride))
        return tuple(sizes)

    @cached_property
    def head(self) -> LayerSpec:
        space = self.space
        return LayerSpec(
            "nasnet_head" if space.genes[0].choices[0].op == "nasnet" else "pool_head",
            space.head_channels,
            space.classes,
            self.sizes[-1],
            act="none",
            classes=space.classes,
            bias=space.classifier_bias,
        )

    def stage(self, number: int, depth: int) -> list[LayerSpec]:
        """The modules of a stage, counted from 0. Only the first ones depend on what is in front of them."""
        gene = self.space.genes[number]
        cin, cout, op = gene.in_channels, gene.out_channels, gene.choices[0].op
        size, act = self.sizes[number + 1], self.space.act
        modules = [LayerSpec(op, cin, cout, self.sizes[number], gene.stride, act=act)]
        modules += [LayerSpec(op, cout, cout, size, act=act)] * (depth - 1)
        return nasnet.with_inputs(modules) if op == "nasnet" else modules

    def pick(self, arch: Arch) -> list[LayerSpec]:
        """Stem, the modules of each stage, head."""
        stages = (self.stage(i, depth) for i, depth in enumerate(depths(self.space, arch)))
        return [self.stem, *(spec for stage in stages for spec in stage), self.head]

    def every(self) -> Iterator[LayerSpec]:
        """All that can run."""
        yield self.stem
        for number, gene in enumerate(self.space.genes):
            yield from dict.fromkeys(self.stage(number, gene.choices[-1].count))
        yield self.head

    def priced(self, price: Price) -> tuple[list[list[float]], float, None]:
        """What each decision costs, as ``search.costs.AdditiveCost`` takes it: table, base, genes of the tables."""
        table = [
            [sum(map(price, self.stage(number, choice.count))) for choice in gene.choices]
            for number, gene in enumerate(self.space.genes)
        ]
        return table, price(self.stem) + price(self.head), None


def stages(network: Network) -> list[list[nn.Module]]:
    """The modules of each stage."""
    modules = iter(network.layers)
    return [[next(modules) for _ in range(depth)] for depth in depths(network.space, network.arch)]


def transfer(network: Network, donor: Network) -> None:
    """Start from the weights of a trained deeper network: the first modules of each of its stages (§III).

    Stem and head come with them; a head for another number of classes stays as it is.

    Raises:
        UserError: a stage is deeper than the donor's, or a weight has another shape.
    """
    require_depth(donor, depths(network.space, network.arch))
    pairs = [("the stem", network.stem, donor.stem)]
    for number, (own, given) in enumerate(zip(stages(network), stages(donor), strict=True), start=1):
        pairs += [(f"stage {number}", *pair) for pair in zip(own, given, strict=False)]  # ends with the shorter one
    for name, own, given in pairs:
        wanted, weights = own.state_dict(), given.state_dict()
        for key in sorted(wanted.keys() | weights.keys()):
            shapes = [tuple(state[key].shape) if key in state else "nothing" for state in (wanted, weights)]
            if shapes[0] != shapes[1]:
                raise UserError(
                    f"the donor does not fit: {name} has {key} of shape {shapes[0]} here and {shapes[1]} there; take "
                    "one with the same modules, width and image channels"
                )
        own.load_state_dict(weights)
    if network.space.classes == donor.space.classes:
        network.head.load_state_dict(donor.head.state_dict())


def require_depth(donor: Network, modules: Sequence[int]) -> None:
    """Refuse a donor one of whose stages has fewer modules than are wanted."""
    given = depths(donor.space, donor.arch)
    if len(given) != len(modules) or any(want > have for want, have in zip(modules, given, strict=True)):
        raise UserError(
            f"the donor has stages of {'-'.join(map(str, given))} modules, but {'-'.join(map(str, modules))} are "
            "wanted of it: take a deeper donor, or bound the depth with --depth-max"
        )
